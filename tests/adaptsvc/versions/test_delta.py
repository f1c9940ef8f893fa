"""Tensor files: bitwise round trip, and what is no tensor file is refused."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adaptsvc.errors import VersionCorruptError
from adaptsvc.types import Float32, Tensors
from adaptsvc.versions.delta import Head, check_names, from_bytes, to_bytes
from tests.adaptsvc.versions.examples import head

tensors = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=0, max_dims=3, max_side=3),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    max_size=4,
)
EXAMPLE = to_bytes({"norm.weight": np.arange(6, dtype=np.float32).reshape(2, 3)})


def assert_same_bits(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == tensor.shape
        assert found[name].tobytes() == tensor.tobytes()


@settings(deadline=None)
@given(tensors=tensors)
def test_tensors_round_trip_bitwise(tensors: Tensors) -> None:
    assert_same_bits(from_bytes(to_bytes(tensors), 1), tensors)


def test_a_strided_view_is_written_as_it_reads() -> None:
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    assert_same_bits(from_bytes(to_bytes({"view": view}), 1), {"view": np.ascontiguousarray(view)})


def test_float64_is_written_as_float32() -> None:
    data = to_bytes({"w": np.array([0.1], np.float64)})
    assert_same_bits(from_bytes(data, 1), {"w": np.array([0.1], np.float32)})


def test_same_tensors_give_the_same_bytes() -> None:
    assert to_bytes({"a": np.ones(2, np.float32)}) == to_bytes({"a": np.ones(2, np.float32)})


@pytest.mark.parametrize("length", range(0, len(EXAMPLE), 5))
def test_a_cut_file_is_refused(length: int) -> None:
    with pytest.raises(
        VersionCorruptError, match="tensor file of version 4 cannot be read"
    ) as raised:
        from_bytes(EXAMPLE[:length], 4)
    assert raised.value.version == 4


@settings(deadline=None)
@given(data=st.binary(max_size=64))
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    with suppress(VersionCorruptError):
        assert isinstance(from_bytes(data, 1), dict)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_refused_by_its_name(value: float) -> None:
    data = to_bytes({"good": np.ones(2, np.float32), "bad": np.array([1, value], np.float32)})
    with pytest.raises(VersionCorruptError, match=r"version 2 holds NaN or Inf in \['bad'\]"):
        from_bytes(data, 2)


def test_a_head_round_trips_bitwise() -> None:
    found, expected = Head.from_bytes(head().to_bytes(), 1), head()
    assert_same_bits(named(found), named(expected))


def named(value: Head) -> dict[str, Float32]:
    return {name: getattr(value, name) for name in Head.__slots__}


@pytest.mark.parametrize("change", ["missing", "more"])
def test_a_head_with_other_tensors_is_refused(change: str) -> None:
    content = named(head())
    if change == "missing":
        del content["context"]
    else:
        content["more"] = np.ones(1, np.float32)
    with pytest.raises(VersionCorruptError, match=r"head of version 3 holds .*, expected"):
        Head.from_bytes(to_bytes(content), 3)


def test_a_delta_within_the_swappable_names_is_taken() -> None:
    check_names({"a": np.ones(1, np.float32)}, {"a", "b"}, 1)
    check_names({}, (), 1)


def test_a_delta_for_a_parameter_the_base_lacks_is_refused_by_its_name() -> None:
    delta = {"a": np.ones(1, np.float32), "foreign": np.ones(1, np.float32)}
    with pytest.raises(VersionCorruptError, match=r"version 6 changes \['foreign'\]") as raised:
        check_names(delta, {"a"}, 6)
    assert raised.value.version == 6
