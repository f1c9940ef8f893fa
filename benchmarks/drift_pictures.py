"""Embeds the pictures that `benchmarks.drift` draws its streams from, once; it knows nothing of drift.

`python -m benchmarks.drift_pictures CACHE --fashion FOLDER --pacs FOLDER`: one .npz per condition, on the
bundled model with one thread. torch is loaded for the class names; the images go through the exported tower,
as in the worker.
"""

from __future__ import annotations

import argparse
import io
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from adaptsvc import config
from adaptsvc.bootstrap import zero_shot_predictor
from adaptsvc.corruption import Corruption, corrupt
from adaptsvc.demo.bundle import fashion_mnist
from adaptsvc.evaluation.data import read_tree
from adaptsvc.images import ImageLimits, decode
from adaptsvc.serving.predictor import Predictor
from adaptsvc.types import Float32
from benchmarks.drift import KINDS, SEVERITIES

SEED = 7
CLEAN_IMAGES, WORSE_IMAGES, BATCH_IMAGES = 9500, 500, 16  # together the test split
SPLIT = "t10k"
FASHION = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
LIMITS = ImageLimits()


def main() -> None:
    """Embed what is not in the cache yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--fashion", type=Path, help="the folder of the four idx files")
    parser.add_argument("--pacs", type=Path, help="DIR/domain/class/*.jpg")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.pacs:
        embed_pacs(options.pacs, options.cache)
    if options.fashion:
        embed_fashion(options.fashion, options.cache)


def embed_fashion(folder: Path, cache: Path) -> None:
    """Clean images of the test split, and others at every kind and severity."""
    predictor = predictor_of(FASHION, cache)
    images, _ = fashion_mnist(folder, SPLIT)
    drawn = np.random.default_rng(SEED).permutation(len(images))
    files = [png(images[index]) for index in drawn[: CLEAN_IMAGES + WORSE_IMAGES]]
    embed(predictor, files[:CLEAN_IMAGES], cache / "fashion.npz")
    for severity, kind in product(SEVERITIES, KINDS):
        change = Corruption(kind, severity, SEED)
        path = cache / f"fashion-{kind}-{severity}.npz"
        if not path.exists():
            some = enumerate(files[CLEAN_IMAGES:])
            embed(predictor, [corrupt(f, f"{n}", change, LIMITS).data for n, f in some], path)


def embed_pacs(folder: Path, cache: Path) -> None:
    """Every image of every domain."""
    tree = read_tree(folder)
    predictor = predictor_of(tree.classes, cache)
    for domain, entries in tree.domains.items():
        embed(predictor, [e.file.read_bytes() for e in entries], cache / f"pacs-{domain}.npz")


def predictor_of(classes: Sequence[str], cache: Path) -> Predictor:
    """The bundled model for these classes, before it has learned anything, on one thread."""
    return zero_shot_predictor(
        config.read(home=cache / "home", classes=tuple(classes), learn={"threads": 1})
    )


def embed(predictor: Predictor, files: Sequence[bytes], path: Path) -> None:
    """Write the embeddings (N, D) of encoded pictures, with the head that classifies them."""
    if path.exists():
        return
    head, manifest = predictor.version.head, predictor.manifest
    np.savez(
        path,
        embeddings=np.concatenate(list(_embedded(predictor, files))),
        class_embeddings=head.class_embeddings,
        logit_scale=manifest.logit_scale,
    )
    print(path.name, len(files), f"{zlib.crc32(path.read_bytes()):08x}", flush=True)


def png(pixels: np.typing.NDArray[np.uint8]) -> bytes:
    """An image (H, W), encoded."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _embedded(predictor: Predictor, files: Sequence[bytes]) -> Iterator[Float32]:
    preprocess = predictor.base.preprocess
    for start in range(0, len(files), BATCH_IMAGES):
        pixels = [decode(f, preprocess, LIMITS) for f in files[start : start + BATCH_IMAGES]]
        yield predictor.encoder.embed(np.stack(pixels))


if __name__ == "__main__":
    main()
