"""Claims about which execution providers are said to run, and what is said to be missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from adaptsvc.providers import (
    CUDA_PROVIDER,
    IDENTITY,
    cuda_libraries,
    load_cuda,
    missing_for_cuda,
    try_provider,
)


def test_the_graph_is_a_valid_one_and_gives_back_what_it_is_given() -> None:
    onnx.checker.check_model(onnx.load_from_string(IDENTITY))
    session = onnxruntime.InferenceSession(IDENTITY, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([3.5], np.float32)})[0] == pytest.approx(3.5)


def test_the_cpu_provider_runs_everywhere() -> None:
    found = try_provider("CPUExecutionProvider")
    assert (found.runs, found.why_not) == (True, ())
    assert "CPUExecutionProvider" in found.built_in


def test_a_provider_that_is_not_built_in_is_said_not_to_be() -> None:
    found = try_provider("NoSuchExecutionProvider")
    assert not found.runs
    assert found.why_not == ("this ONNX Runtime has no NoSuchExecutionProvider",)


def test_a_provider_that_is_built_in_counts_only_if_it_runs() -> None:
    """Where there is no GPU, the build with CUDA lists it all the same."""
    found = try_provider(CUDA_PROVIDER)
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        assert not found.runs
        assert found.why_not


def test_without_a_device_and_libraries_each_is_named(tmp_path: Path) -> None:
    def load(name: str) -> None:
        raise OSError(name)

    missing = list(missing_for_cuda(tmp_path, load))
    assert len(missing) == 1 + len(cuda_libraries())
    assert "no GPU" in missing[0]
    (tmp_path / "nvidia0").touch()
    assert list(missing_for_cuda(tmp_path, str)) == []


def test_the_libraries_are_those_the_provider_of_this_build_is_linked_against() -> None:
    """The names it needs stand in the file, as the system's loader reads them."""
    (provider,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime_providers_cuda.so")
    content = provider.read_bytes()
    for name in cuda_libraries()[:-1]:
        assert b"\0" + name.encode() + b"\0" in content, name
    assert "libcudnn.so.9" in cuda_libraries()  # opened by the provider itself


def test_loading_what_is_missing_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    load_cuda.cache_clear()
    load_cuda()
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
@pytest.mark.skipif(not any(Path("/dev").glob("nvidia[0-9]*")), reason="there is no NVIDIA device")
def test_cuda_runs_where_there_is_a_device() -> None:
    found = try_provider(CUDA_PROVIDER)
    assert (found.runs, found.why_not) == (True, ())
