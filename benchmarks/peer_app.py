"""What every peer of `benchmarks.peers` does with an image: our decoder, our graph, our head."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptsvc import config
from adaptsvc.images import ImageLimits, decode
from adaptsvc.metrics import Observer
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.live import Live
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.store import VersionStore

HOME, PORT, PROCESSES = "PEER_HOME", "PEER_PORT", "PEER_PROCESSES"
TOP_K = 5


class Classifier:
    """The version that serves, loaded once, on one thread."""

    def __init__(self) -> None:
        settings = config.read(home=Path(os.environ[HOME]))
        store, pointer = VersionStore(settings.store), FilePointer(settings.pointer)
        live = Live(store, pointer, Runtime(), observer=Observer())
        live.poll()
        assert live.current is not None, live.refusal
        self._predictor, self._limits = live.current, ImageLimits()

    def classify(self, data: bytes) -> dict[str, Any]:
        """An encoded image to its labels."""
        pixels = decode(data, self._predictor.base.preprocess, self._limits)
        answer = self._predictor.answer(pixels[None], TOP_K)
        return {"model_version": answer.version, **asdict(answer.predictions[0])}
