"""A base model on disk: the exported image tower that versions are deltas to.

It knows nothing of versions, nor of where bases are kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from adaptsvc.errors import ForeignBaseError, VersionCorruptError
from adaptsvc.images import Preprocess
from adaptsvc.types import Tensors
from adaptsvc.versions import delta as tensors
from adaptsvc.versions.files import sha256

Precision: TypeAlias = Literal["float32", "float16"]
BASE_FILES = ("model.data", "model.onnx", "preprocess.json")
TUNED = "tuned.safetensors"  # only in the base of a tuned model: what of the tower is not the CLIP's own


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk.

    Attributes:
        digest: SHA-256 over its files.
        directory: where they are.
        fingerprint: of the CLIP image tower it was exported from, marked with another precision than float32.
        precision: of its weights and of what is computed between its input and its output.
        swap: how a delta becomes the running model.
        swappable: the names a delta may hold.
        preprocess: how an image becomes its input.
    """

    digest: str
    directory: Path
    fingerprint: str
    precision: Precision
    swap: Literal["feed", "session"]
    swappable: frozenset[str]
    preprocess: Preprocess

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.directory / "model.onnx"

    def tuned(self) -> Tensors:
        """The tower's weights that are not the CLIP's own, norms apart; none for an untuned base.

        Raises:
            VersionCorruptError: the file cannot be read.
        """
        path = self.directory / TUNED
        return tensors.from_bytes(path.read_bytes(), -1) if path.exists() else {}


def read_base(directory: Path) -> Base:
    """The base model in a folder that is named by its digest, verified.

    Raises:
        ForeignBaseError: there is none.
        VersionCorruptError: its files do not match its digest.
    """
    digest = directory.name
    if not directory.is_dir():
        raise ForeignBaseError(
            f"the base model {digest[:12]} is not in {directory.parent}; "
            "run 'adaptsvc export' with the model it was made from"
        )
    if (found := digest_of(directory)) != digest:
        raise VersionCorruptError(
            f"the base model {digest[:12]} was altered: its files now give {found[:12]}; delete "
            f"{directory} and run 'adaptsvc export'"
        )
    description = description_of(directory)
    return Base(
        digest=digest,
        directory=directory,
        fingerprint=description["fingerprint"],
        precision=description.get("precision", "float32"),
        swap=description["swap"],
        swappable=frozenset(description["swappable"]),
        preprocess=Preprocess.from_json(description["preprocess"]),
    )


def marked(fingerprint: str, precision: Precision) -> str:
    """What a base of that precision has as its fingerprint.

    Example:
        >>> marked("ab12", "float32"), marked("ab12", "float16")
        ('ab12', 'ab12-float16')
    """
    return fingerprint if precision == "float32" else f"{fingerprint}-{precision}"


def digest_of(directory: Path) -> str:
    """SHA-256 over the digests of a base's files; a missing file counts as its own name."""
    names = (*BASE_FILES, TUNED) if (directory / TUNED).exists() else BASE_FILES
    lines = [
        f"{name} {sha256(directory / name) if (directory / name).is_file() else 'missing'}\n"
        for name in names
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def description_of(directory: Path) -> dict[str, Any]:
    """What a base says of itself; nothing where that cannot be read."""
    try:
        found: dict[str, Any] = json.loads((directory / "preprocess.json").read_text())
    except (OSError, ValueError):  # find_base goes on to the next; base() names the altered file
        return {}
    return found
