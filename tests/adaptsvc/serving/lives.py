"""A `Live` over a store with version 0, and what it told its observer."""

from __future__ import annotations

import numpy as np
import onnx

from adaptsvc.config import Settings
from adaptsvc.metrics import Observer, SwapFailure
from adaptsvc.serving.encoder import Runtime, build
from adaptsvc.serving.live import Live
from adaptsvc.serving.predictor import describe_self_test
from adaptsvc.types import Tensors, UInt8
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Draft, Manifest
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.store import VersionStore


class Recorder(Observer):
    def __init__(self) -> None:
        self.swaps: list[int] = []
        self.failures = 0
        self.codes: list[SwapFailure] = []
        self.refuses: list[bool] = []

    def swapped(self, version: int, seconds: float) -> None:
        self.swaps.append(version)

    def swap_failed(self, why: SwapFailure) -> None:
        self.failures += 1
        self.codes.append(why)

    def refusing(self, refuses: bool) -> None:
        self.refuses.append(refuses)


class Fixture:
    """A store with version 0, a pointer at it, and a live that serves it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = VersionStore(settings.store)
        self.pointer = FilePointer(settings.pointer)
        self.observer = Recorder()
        self.now = 0.0
        self.live = Live(
            self.store, self.pointer, Runtime(), observer=self.observer, clock=lambda: self.now
        )
        self.live.poll()
        size = self.store.base(self.store.manifest(0).base).preprocess.size
        self.pixels: UInt8 = np.full((1, 3, size, size), 90, np.uint8)

    def publish(self, *, flip: bool = False, shift: float = 0.1) -> Manifest:
        """A child of version 0: other norm parameters; flipped, its classes point the other way."""
        zero = self.store.load(0)
        base = self.store.base(zero.manifest.base)
        name = sorted(name for name in base.swappable if name.endswith("bias"))[0]
        length = self._length(name)
        delta: Tensors = {name: np.full(length, shift, np.float32)}
        encoder = build(base, delta, Runtime())
        test, expected = describe_self_test(encoder, 1)
        embeddings = zero.head.class_embeddings * (-1 if flip else 1)
        head = Head(embeddings, zero.head.context, expected)
        update = {"parent": 0, "method": "ueo", "self_test": test}
        fields = {key: getattr(zero.manifest, key) for key in Draft.model_fields}
        return self.store.publish(Draft(**{**fields, **update}), delta, head)

    def _length(self, name: str) -> int:
        base = self.store.base(self.store.manifest(0).base)
        graph = onnx.load(base.graph, load_external_data=False).graph
        (length,) = next(tensor.dims for tensor in graph.initializer if tensor.name == name)
        return int(length)

    @property
    def serving(self) -> int:
        assert self.live.current is not None
        return self.live.current.manifest.id
