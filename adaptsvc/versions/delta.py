"""The tensors a version ships: the changed norm parameters, and the class head. Numpy, no torch.

It knows nothing of stores or sessions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from adaptsvc.errors import VersionCorruptError
from adaptsvc.types import Float32, Tensors


@dataclass(frozen=True, slots=True)
class Head:
    """What turns embeddings into logits.

    Attributes:
        class_embeddings: (C, D), unit norm.
        context: (M, W), the learned prompt context that made them.
        self_test_embeddings: (N, D), the image tower's outputs on the self-test input.
    """

    class_embeddings: Float32
    context: Float32
    self_test_embeddings: Float32

    def to_bytes(self) -> bytes:
        """As safetensors."""
        return to_bytes({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_bytes(cls, data: bytes, version: int) -> Head:
        """From safetensors.

        Raises:
            VersionCorruptError: unreadable, or a tensor is missing.
        """
        tensors = from_bytes(data, version)
        if set(tensors) != set(cls.__slots__):
            raise VersionCorruptError(
                f"the head of version {version} holds {sorted(tensors)}, expected "
                f"{sorted(cls.__slots__)}; activate another version",
                version,
            )
        return cls(**tensors)


def to_bytes(tensors: Tensors) -> bytes:
    """Tensors as safetensors, float32."""
    return save({k: np.asarray(v, dtype=np.float32, order="C") for k, v in tensors.items()})


def from_bytes(data: bytes, version: int) -> Tensors:
    """Tensors from safetensors.

    Raises:
        VersionCorruptError: the bytes are no safetensors file, or a value is not finite.
    """
    try:
        tensors: Tensors = load(data)
    except SafetensorError as exc:
        raise VersionCorruptError(
            f"a tensor file of version {version} cannot be read: {exc}; activate another version",
            version,
        ) from exc
    bad = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if bad:
        raise VersionCorruptError(
            f"version {version} holds NaN or Inf in {bad[:3]}; activate another version", version
        )
    return tensors


def check_names(delta: Tensors, swappable: Collection[str], version: int) -> None:
    """Refuse a delta for parameters the base does not have; ONNX Runtime would ignore them silently.

    Raises:
        VersionCorruptError: a name that is not swappable.
    """
    foreign = sorted(set(delta) - set(swappable))
    if foreign:
        raise VersionCorruptError(
            f"the delta of version {version} changes {foreign[:3]}, which the base model cannot swap; "
            "activate another version",
            version,
        )
