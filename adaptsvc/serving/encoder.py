"""A base model with one delta in place: images to unit embeddings on ONNX Runtime. Thread-safe.

It knows nothing of classes, versions or HTTP.

How the delta gets in is the base's choice (see adaptsvc.clip.export): ``feed`` shares the session of the
encoder before it and passes the norm parameters with every call; ``session`` builds a second session with
`add_external_initializers`. `SessionOptions.add_initializer` is never used: on BatchNorm models ONNX Runtime
folds the file's values first and ignores the override, silently.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import onnxruntime

from adaptsvc.errors import ModelError
from adaptsvc.images import normalise
from adaptsvc.providers import CUDA_PROVIDER, load_cuda
from adaptsvc.serve_section import CudaSettings, ServeSettings
from adaptsvc.types import Float32, Norms, Tensors, UInt8
from adaptsvc.versions.base import Base

log = logging.getLogger(__name__)
Device: TypeAlias = Literal["cpu", "cuda"]
PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": CUDA_PROVIDER}
ERRORS_ONLY = 3


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and how inference runs.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: of one inference call on CPU, at least 1.
        fallback: run on the CPU, and say so, where the device is not there.
        options: of the CUDA provider, by ONNX Runtime's names.
        bind: keep the delta where the session computes, and bind inputs and outputs there, instead of having
            every call copy them.
    """

    device: Device = "cpu"
    threads: int = 1
    fallback: bool = False
    options: tuple[tuple[str, str], ...] = ()
    bind: bool = False


def runtime_of(serve: ServeSettings, threads: int) -> Runtime:
    """The runtime these settings ask for."""
    on_gpu = serve.device == "cuda"
    options = cuda_options(serve.cuda) if on_gpu else ()
    return Runtime(serve.device, threads, serve.fallback, options=options, bind=on_gpu)


def cuda_options(settings: CudaSettings) -> tuple[tuple[str, str], ...]:
    """The settings as the CUDA provider takes them."""
    options = {
        "device_id": str(settings.device_id),
        "cudnn_conv_algo_search": settings.convolution_search.upper(),
        "use_tf32": str(int(settings.tf32)),
    }
    if (
        settings.memory_bytes
    ):  # the arena doubles by default, and would reach for more than is allowed
        options |= {
            "gpu_mem_limit": str(settings.memory_bytes),
            "arena_extend_strategy": "kSameAsRequested",
        }
    return tuple(options.items())


class Encoder:
    """A session and the delta it runs with. Use `build`."""

    def __init__(
        self, base: Base, session: Any, *, feeds: Norms, keep: Sequence[Any], bind: bool = False
    ) -> None:
        self.base = base
        self.session = session
        self._feeds = feeds
        self._keep = keep  # the tensors ONNX Runtime reads the overridden initializers from
        self._bind = bind
        self._bound = self._placed(feeds) if bind else {}

    @property
    def provider(self) -> str:
        """The execution provider that runs it, as ONNX Runtime names it."""
        return str(self.session.get_providers()[0])

    def embed(self, pixels: UInt8) -> Float32:
        """Unit embeddings (N, D) of images (N, 3, H, W) as `adaptsvc.images.decode` gives them."""
        images = normalise(pixels, self.base.preprocess)
        if self._bind:
            return self._embed_bound(images)
        feeds = {"images": images, **self._feeds}
        embeddings: Float32 = self.session.run(["embeddings"], feeds)[0]
        return embeddings

    def _embed_bound(self, images: Float32) -> Float32:
        """The same, by a binding of this call's own: bindings are not thread-safe, sessions are."""
        binding = self.session.io_binding()
        binding.bind_cpu_input("images", images)
        for name, value in self._bound.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("embeddings", "cpu")
        self.session.run_with_iobinding(binding)
        embeddings: Float32 = binding.copy_outputs_to_cpu()[0]
        return embeddings

    def _placed(self, feeds: Norms) -> dict[str, Any]:
        """The delta in the memory of the provider that runs, which may be the CPU's after all."""
        on_gpu = self.provider == PROVIDERS["cuda"]
        options = self.session.get_provider_options().get(self.provider, {}) if on_gpu else {}
        where, number = ("cuda" if on_gpu else "cpu"), int(options.get("device_id", 0))
        place = onnxruntime.OrtValue.ortvalue_from_numpy
        return {name: place(value, where, number) for name, value in feeds.items()}


def build(
    base: Base, delta: Tensors, runtime: Runtime, *, before: Encoder | None = None
) -> Encoder:
    """An encoder for a base and a delta whose names the base can swap.

    Args:
        base: the base model.
        delta: norm parameters in place of the base's own.
        runtime: where to run.
        before: an encoder whose session may be shared.

    Raises:
        ModelError: ONNX Runtime refuses the model, has not the device asked for, or a shape does not fit.
    """
    # A graph in half precision has its norms so too; a version never has.
    norms: Norms = {name: value.astype(base.precision) for name, value in delta.items()}
    if base.swap == "session":
        session, keep = _session(base, norms, runtime)
        return Encoder(base, session, feeds={}, keep=keep, bind=runtime.bind)
    if before is not None and before.base.digest == base.digest:
        session = before.session
    else:
        session, _ = _session(base, {}, runtime)
    _check_shapes(session, norms)
    return Encoder(base, session, feeds=norms, keep=(), bind=runtime.bind)


def _check_shapes(session: Any, delta: Norms) -> None:
    """Refuse what ONNX Runtime would only refuse at the first request."""
    wanted = {entry.name: tuple(entry.shape) for entry in session.get_overridable_initializers()}
    wrong = sorted(name for name, value in delta.items() if value.shape != wanted.get(name))
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"the delta gives {name} the shape {delta[name].shape}, the base model has "
            f"{wanted.get(name)}; {len(wrong)} of {len(delta)} do not fit: activate another version"
        )


def _session(base: Base, delta: Norms, runtime: Runtime) -> tuple[Any, list[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.log_severity_level = ERRORS_ONLY
    # Two sessions that live at once and spin while they wait slow each other 1.3 to 1.7 times.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in delta.values()]
    if delta:
        options.add_external_initializers(list(delta), values)
    provider = PROVIDERS[runtime.device]
    if runtime.device == "cuda":
        load_cuda()
    asked = (provider, dict(runtime.options)) if runtime.options else provider
    try:
        session = onnxruntime.InferenceSession(str(base.graph), options, providers=[asked])
    except Exception as exc:  # ONNX Runtime's errors have no base but Exception
        raise ModelError(f"ONNX Runtime refused {base.graph}: {exc}") from exc
    if provider not in session.get_providers():
        problem = f"ONNX Runtime runs on {session.get_providers()}, {provider} was asked for"
        if not runtime.fallback:
            raise ModelError(f"{problem}; install its libraries or set serve.device to cpu")
        log.warning("%s; serve.fallback allows it", problem)
    return session, values
