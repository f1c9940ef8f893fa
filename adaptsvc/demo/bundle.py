"""Makes the demo's bundled images again; run once by hand: ``python -m adaptsvc.demo.bundle DEBIAN_ROOT``.

Known images are Fashion-MNIST (Debian package dataset-fashion-mnist). Images of unknown kind are pictures of
animals, food and vehicles from Noto Emoji (fonts-noto-color-emoji, listed by unicode-data), brought
to the form of Fashion-MNIST, 28x28 grey on black, so that the form does not give them away.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adaptsvc.demo.data import BUNDLE
from adaptsvc.types import UInt8

SEED = 2024
STREAM_KNOWN, HELD_OUT_KNOWN, STREAM_UNKNOWN, HELD_OUT_UNKNOWN = 3000, 1000, 170, 170
SIDE = 28
HEADER_IMAGES, HEADER_LABELS = 16, 8
FASHION_MNIST = "usr/share/datasets/fashion-mnist"
EMOJI_LIST = "usr/share/unicode/emoji/emoji-test.txt"
EMOJI_FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places")
EMOJI_SIZE, EMOJI_CANVAS, VARIATION_SELECTOR = 109, (136, 128), "FE0F"


def main(root: Path) -> None:
    """Write the bundle beside this module."""
    generator = np.random.default_rng(SEED)
    train, _ = fashion_mnist(root / FASHION_MNIST, "train")
    test, labels = fashion_mnist(root / FASHION_MNIST, "t10k")
    stream = generator.permutation(len(train))[:STREAM_KNOWN]
    held_out = generator.permutation(len(test))[:HELD_OUT_KNOWN]
    strangers = emoji(root / EMOJI_LIST, root / EMOJI_FONT)
    order = generator.permutation(len(strangers))
    np.savez_compressed(
        BUNDLE,
        stream_known=train[stream],
        stream_unknown=strangers[order[:STREAM_UNKNOWN]],
        held_out_known=test[held_out],
        held_out_labels=labels[held_out],
        held_out_unknown=strangers[order[STREAM_UNKNOWN : STREAM_UNKNOWN + HELD_OUT_UNKNOWN]],
    )


def fashion_mnist(folder: Path, split: str) -> tuple[UInt8, UInt8]:
    """Images (N, 28, 28) and labels (N,) of a split, ``train`` or ``t10k``."""
    images = _unpack(folder / f"{split}-images-idx3-ubyte.gz", HEADER_IMAGES)
    labels = _unpack(folder / f"{split}-labels-idx1-ubyte.gz", HEADER_LABELS)
    return images.reshape(-1, SIDE, SIDE), labels


def emoji(listing: Path, font_file: Path) -> UInt8:
    """Pictures (N, 28, 28) of every one-character emoji in EMOJI_GROUPS, grey on black."""
    font = ImageFont.truetype(font_file, EMOJI_SIZE)
    return np.stack([_rendered(character, font) for character in _characters(listing)])


def _characters(listing: Path) -> list[str]:
    found: list[str] = []
    group = ""
    for line in listing.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        if group in EMOJI_GROUPS and not line.startswith("#") and "; fully-qualified" in line:
            points = [p for p in line.partition(";")[0].split() if p != VARIATION_SELECTOR]
            if len(points) == 1:
                found.append(chr(int(points[0], 16)))
    return found


def _rendered(character: str, font: ImageFont.FreeTypeFont) -> UInt8:
    picture = Image.new("RGB", EMOJI_CANVAS)
    ImageDraw.Draw(picture).text((0, 0), character, font=font, embedded_color=True)
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _unpack(path: Path, header: int) -> UInt8:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
