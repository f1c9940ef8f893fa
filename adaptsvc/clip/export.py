"""The image tower as an ONNX graph whose normalization parameters keep their names.

It knows nothing of versions or serving. The recipe keeps every name and still lets ONNX Runtime fuse: export
without optimization, then fold constants and drop unused nodes. The usual exports fold BatchNorm into the
convolutions and lose its parameters; overriding them then does nothing, silently. So the names are checked.

Two ways to run another set of norm parameters, decided per model by `decide_swap`:
- ``feed``: the parameters are graph inputs with defaults; a delta is fed to the session already running;
- ``session``: a second session is built over the same data file with the delta in place of the defaults.

In ``float16`` the tower computes in half precision; images and embeddings stay float32, and so does a delta,
which the encoder rounds. What half precision changes is held against limits before anything is stored.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import onnx
import onnxruntime
import onnxscript.optimizer
import torch
from onnxscript import ir
from torch import Tensor, nn

from adaptsvc.adapt.adapter import norm_parameters, unit
from adaptsvc.clip.load import Clip, fingerprint
from adaptsvc.clip.parity import LIMITS, gap
from adaptsvc.errors import ModelError
from adaptsvc.types import Tensors
from adaptsvc.versions.base import TUNED, Precision, marked
from adaptsvc.versions.delta import to_bytes

Swap: TypeAlias = Literal["feed", "session"]
INPUT, OUTPUT = "images", "embeddings"
GRAPH, DATA, DESCRIPTION = "model.onnx", "model.data", "preprocess.json"
PICTURES, BLOCKS = 4, 8
EXTERNAL_BYTES = 1024  # smaller constants stay in the graph: shape inference wants to read them


class ImageTower(nn.Module):
    """(N, 3, H, W) normalised -> (N, D) unit embeddings, float32 both; half precision in between if asked."""

    def __init__(self, visual: nn.Module, precision: Precision = "float32") -> None:
        super().__init__()
        self._half = precision == "float16"
        self.visual = copy.deepcopy(visual).half() if self._half else visual

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch."""
        return unit(self.visual(images.half()).float() if self._half else self.visual(images))


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions on a GPU in float32; by default torch rounds what they multiply to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def swappable(clip: Clip) -> dict[str, nn.Parameter]:
    """The norm parameters of the image tower, by the names they have in the exported graph."""
    return norm_parameters(clip.model.visual, prefix="visual")


def export_base(clip: Clip, directory: Path, precision: Precision = "float32") -> None:
    """Write the base model: graph, data file, and a description of what it is.

    Args:
        clip: what to export; it stays as it is.
        directory: an existing empty folder.
        precision: of the weights and the arithmetic of the tower.

    Raises:
        ModelError: the exporter failed, a norm parameter lost its name, or the graph answers further from
            what torch answers in float32 than its precision explains.
    """
    names = sorted(swappable(clip))
    program = _trace(clip, precision)
    _check_names(program.graph.initializers, names)
    _save(program, directory, names, overridable=True)
    swap = decide_swap(directory / GRAPH)
    if swap == "session":
        _save(program, directory, names, overridable=False)
        _check_fused(directory / GRAPH)
    _check_parity(clip, directory / GRAPH, precision)
    description = {
        "model": clip.name,
        "fingerprint": marked(clip.fingerprint, precision),
        "precision": precision,
        "swap": swap,
        "swappable": names,
        "preprocess": clip.preprocess.to_json(),
    }
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=1))


def export_tuned(
    clip: Clip, changed: Tensors, directory: Path, precision: Precision = "float32"
) -> None:
    """Write a base model whose tower is no longer the CLIP's own, and what of it has changed.

    Args:
        clip: its tower as it is now.
        changed: the changed weights by name, norms apart; what the next round starts from.
        directory: an existing empty folder.
        precision: as for `export_base`.

    Raises:
        ModelError: as `export_base`.
    """
    tuned = replace(clip, fingerprint=fingerprint(clip.model.visual, clip.preprocess))
    export_base(tuned, directory, precision)
    (directory / TUNED).write_bytes(to_bytes(changed))


def decide_swap(graph: Path) -> Swap:
    """``session`` where feeding the norm parameters keeps a BatchNorm from being fused, else ``feed``.

    Read off the graph ONNX Runtime really runs when the parameters are inputs: a BatchNormalization left
    there costs 1.6 times per request.
    """
    return "session" if "BatchNormalization" in optimized_operators(graph) else "feed"


def optimized_operators(graph: Path) -> set[str]:
    """The operator types of a model after ONNX Runtime's own optimization on CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    target = graph.with_suffix(".optimized.onnx")
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        return {node.op_type for node in onnx.load(target, load_external_data=False).graph.node}
    finally:
        for leftover in graph.parent.glob(f"{target.name}*"):
            leftover.unlink()


def _trace(clip: Clip, precision: Precision) -> ir.Model:
    size = clip.preprocess.size
    device = next(clip.model.parameters()).device
    example = torch.zeros(2, 3, size, size, device=device)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
            exported = torch.onnx.export(
                ImageTower(clip.model.visual, precision).eval(),
                (example,),
                dynamo=True,
                optimize=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except Exception as exc:  # the exporter has no error base of its own
        raise ModelError(
            f"the image tower of {clip.name} could not be exported to ONNX: {exc}; "
            "report the model with this message"
        ) from exc
    assert exported is not None
    program = exported.model
    onnxscript.optimizer.fold_constants(program)
    onnxscript.optimizer.remove_unused_nodes(program)
    return program


def _check_names(initializers: Mapping[str, ir.Value], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in initializers]
    if missing:
        raise ModelError(
            f"the export lost {len(missing)} of {len(names)} norm parameters ({missing[:3]}...); "
            "a delta for them would be ignored silently: this model cannot be adapted"
        )


def _check_parity(clip: Clip, graph: Path, precision: Precision) -> None:
    """Refuse a graph whose embeddings of made-up pictures are not those of torch in float32."""
    device = next(clip.model.parameters()).device
    blocks = torch.randn(PICTURES, 3, BLOCKS, BLOCKS, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(blocks, size=clip.preprocess.size)
    with torch.no_grad(), exact():
        expected = ImageTower(clip.model.visual)(images.to(device)).cpu().numpy()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    answers = session.run([OUTPUT], {INPUT: images.numpy()})[0]
    found, limits = gap(expected, answers), LIMITS[precision]
    if not found.within(limits):
        raise ModelError(
            f"{clip.name} in {precision} answers otherwise than torch in float32: on {PICTURES} pictures "
            f"{found}; {limits} are allowed: set serve.precision to float32, or report the model"
        )


def _check_fused(graph: Path) -> None:
    if "BatchNormalization" in optimized_operators(graph):
        raise ModelError(
            f"ONNX Runtime did not fuse every BatchNormalization of {graph}; requests would be several "
            "times slower: report the model with this message"
        )


def _save(program: ir.Model, directory: Path, names: Sequence[str], *, overridable: bool) -> None:
    """Write the graph; the named tensors go to the data file, or become inputs with defaults."""
    inputs = program.graph.inputs
    while len(inputs) > 1:
        inputs.pop()
    if overridable:
        inputs.extend(program.graph.initializers[name] for name in names)
    proto = ir.to_proto(program)
    for tensor in proto.graph.initializer:
        external = tensor.name in names or len(tensor.raw_data) >= EXTERNAL_BYTES
        if external:
            onnx.external_data_helper.set_external_data(tensor, location=DATA)
    for name in (GRAPH, DATA):
        (directory / name).unlink(missing_ok=True)
    onnx.save_model(proto, str(directory / GRAPH))
