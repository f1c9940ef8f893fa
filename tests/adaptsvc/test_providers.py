"""Claims about which execution providers are said to run, and what is said to be missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from adaptsvc.providers import CUDA_LIBRARIES, IDENTITY, missing_for_cuda, try_provider


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
    found = try_provider("CUDAExecutionProvider")
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        assert not found.runs
        assert found.why_not


def test_without_a_device_and_libraries_each_is_named(tmp_path: Path) -> None:
    def load(name: str) -> None:
        raise OSError(name)

    missing = list(missing_for_cuda(tmp_path, load))
    assert len(missing) == 1 + len(CUDA_LIBRARIES)
    assert "no GPU" in missing[0]
    (tmp_path / "nvidia0").touch()
    assert list(missing_for_cuda(tmp_path, str)) == []
