"""Which execution providers of ONNX Runtime run here, found out by trying. It knows nothing of models."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

# A graph of one Identity, as `onnx.helper` writes it: ONNX Runtime alone cannot make one.
IDENTITY = base64.b64decode(
    "CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ=="
)
NODES = "nvidia[0-9]*"
CUDA_PROVIDER = "CUDAExecutionProvider"
SILENT = 4


@dataclass(frozen=True, slots=True)
class Providers:
    """What there is.

    Attributes:
        built_in: what this build of ONNX Runtime brings, whether it runs here or not.
        runs: whether the one that was asked for runs.
        why_not: what is missing for it, as far as that can be seen; empty where it runs.
    """

    built_in: tuple[str, ...]
    runs: bool
    why_not: tuple[str, ...] = ()


def try_provider(name: str) -> Providers:
    """Have a provider run a graph; ONNX Runtime would go on without it and say so in its log only."""
    built_in = tuple(onnxruntime.get_available_providers())
    if name not in built_in:
        return Providers(built_in, runs=False, why_not=(f"this ONNX Runtime has no {name}",))
    if name == CUDA_PROVIDER:
        load_cuda()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    try:
        session = onnxruntime.InferenceSession(IDENTITY, options, providers=[name])
        runs = name in session.get_providers()
        reasons: tuple[str, ...] = ()
    except Exception as exc:  # ONNX Runtime's errors have no base but Exception
        runs, reasons = False, (str(exc).splitlines()[0][:200],)
    if runs:
        return Providers(built_in, runs=True)
    return Providers(built_in, runs=False, why_not=(*reasons, *missing_for_cuda()))


@functools.cache
def load_cuda() -> None:
    """Load the CUDA libraries that pip installed, where it did; no loader looks among Python's packages."""
    with contextlib.redirect_stdout(io.StringIO()):  # what it misses, `missing_for_cuda` tells
        onnxruntime.preload_dlls()


def cuda_libraries() -> tuple[str, ...]:
    """What this build of ONNX Runtime loads for CUDA; the driver's alone where it was built without."""
    try:
        from onnxruntime.capi.build_and_package_info import cuda_version
    except ImportError:
        return ("libcuda.so.1",)
    major = cuda_version.partition(".")[0]
    return "libcuda.so.1", f"libcudart.so.{major}", f"libcublasLt.so.{major}", "libcudnn.so.9"


def missing_for_cuda(
    devices: Path = Path("/dev"), load: Callable[[str], object] = ctypes.CDLL
) -> Iterator[str]:
    """What CUDA needs and is not here.

    Args:
        devices: where the system has its devices.
        load: loads a library by its name, or raises OSError.
    """
    if not any(devices.glob(NODES)):
        yield f"no GPU: there is no {devices}/nvidia0 (in a container: start it with --gpus all)"
    for name in cuda_libraries():
        try:
            load(name)
        except OSError:
            yield f"{name} cannot be loaded"
