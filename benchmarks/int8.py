"""What 8 bits would cost and gain: `python -m benchmarks.int8 --images DIR`.

The image tower of `lite`, quantised by ONNX Runtime (static, per channel, weights of 7 bits where the CPU has
no VNNI, first convolution and projection left alone), against itself in float32. DIR is domain/class/*.jpg;
every fifth image calibrates, the others are answered by both. Times are CPU seconds of the calling
thread, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from adaptsvc import config
from adaptsvc.bootstrap import prepare
from adaptsvc.evaluation.data import Entry, Tree, prompt_name, read_tree
from adaptsvc.images import ImageLimits, Preprocess, decode, normalise
from adaptsvc.serving.predictor import logits_of
from adaptsvc.trust.calibration import expected_calibration_error, softmax
from adaptsvc.types import Float32, Float64, UInt8
from adaptsvc.versions.store import Version
from benchmarks.figures import Figure, at_least, publish, ratios

BATCH, TIMED, EVERY = 8, (1, 8), 5
AGREEMENT = 0.99
LEFT_ALONE = ("MatMul", "Gemm")


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Whole batches of pictures (N, 3, H, W) for the calibration."""

    def __init__(self, pixels: UInt8, preprocess: Preprocess) -> None:
        whole = range(0, len(pixels) - BATCH + 1, BATCH)
        self._batches = iter([normalise(pixels[k : k + BATCH], preprocess) for k in whole])

    def get_next(self) -> dict[str, Float32] | None:
        """The next one."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def quantise(graph: Path, folder: Path, batches: Batches, method: CalibrationMethod) -> Path:
    """The graph in 8 bits."""
    whole, prepared, result = (folder / f"{name}.onnx" for name in ("whole", "prepared", "int8"))
    onnx.save(onnx.load(str(graph)), str(whole))
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    nodes = onnx.load(str(prepared)).graph.node
    first = next(node.name for node in nodes if node.op_type == "Conv")
    quantize_static(
        str(prepared),
        str(result),
        batches,
        per_channel=True,
        reduce_range="avx512_vnni" not in Path("/proc/cpuinfo").read_text(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[first, *(node.name for node in nodes if node.op_type in LEFT_ALONE)],
        calibrate_method=method,
    )
    return result


def session(graph: Path) -> Any:
    """One thread, as the service runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def pixels_of(entries: Sequence[Entry], preprocess: Preprocess) -> UInt8:
    """(N, 3, H, W)."""
    limits = ImageLimits()
    return np.stack([decode(entry.file.read_bytes(), preprocess, limits) for entry in entries])


def probabilities(runs: Any, pixels: UInt8, version: Version, preprocess: Preprocess) -> Float64:
    """(N, C), calibrated as the version says."""
    found = [runs.run(None, {"images": normalise(one[None], preprocess)})[0] for one in pixels]
    manifest = version.manifest
    logits = logits_of(np.concatenate(found), version.head.class_embeddings, manifest.logit_scale)
    return softmax(logits, manifest.calibration.temperature)


def seconds(runs: Any, batch: Float32) -> float:
    """CPU time of one call."""
    started = time.thread_time()
    runs.run(None, {"images": batch})
    return time.thread_time() - started


def measure(home: Path, tree: Tree, runs: int, method: CalibrationMethod) -> list[Figure]:
    """The lines of the table."""
    names = tuple(prompt_name(name) for name in tree.classes)
    ready = prepare(config.read(home=home, model="lite", classes=names))
    version, base = ready.store.load(0), ready.encoder.base
    entries = [entry for domain in tree.domains.values() for entry in domain]
    calibrating = pixels_of(entries[::EVERY], base.preprocess)
    asked = [entry for number, entry in enumerate(entries) if number % EVERY]
    pixels = pixels_of(asked, base.preprocess)
    batches = Batches(calibrating, base.preprocess)
    plain = session(base.graph)
    small = session(quantise(base.graph, home, batches, method))
    before = probabilities(plain, pixels, version, base.preprocess)
    after = probabilities(small, pixels, version, base.preprocess)
    truth = np.array([tree.classes.index(entry.name) for entry in asked])
    agreed = float((before.argmax(1) == after.argmax(1)).mean())
    figures = [Figure("top-1 agreement", [agreed], "", at_least(AGREEMENT))]
    for name, found in (("float32", before), ("int8", after)):
        correct = (found.argmax(1) == truth).astype(np.float64)
        ece = expected_calibration_error(found.max(1), correct)
        figures += [
            Figure(f"{name}: accuracy", [float(correct.mean())], ""),
            Figure(f"{name}: ECE", [ece], ""),
        ]
    for size in TIMED:
        batch = normalise(pixels[:size], base.preprocess)
        times = [(seconds(plain, batch), seconds(small, batch)) for _ in range(runs)]
        gain = ratios([t[0] for t in times], [t[1] for t in times])
        figures.append(Figure(f"batches of {size}: int8 is so much faster", gain, "x"))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder domain/class/*.jpg")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--method", choices=["MinMax", "Percentile"], default="MinMax")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        method = CalibrationMethod[args.method]
        figures = measure(Path(folder), read_tree(args.images), args.runs, method)
    publish(f"int8 against float32, lite, {args.method}", figures, args.json)


if __name__ == "__main__":
    main()
