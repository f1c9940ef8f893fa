"""Claims about a corpus of broken and odd pictures: each becomes pixels or a refusal, as it should."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import pytest

from adaptsvc.images import ImageLimits
from benchmarks.broken_pictures import Case, cases, mutated, truncated
from benchmarks.fuzz import outcome

CAPS = ImageLimits(max_pixels=1_000_000, max_side=16_384)


@pytest.mark.parametrize(
    "some",
    [cases, lambda: islice(truncated(), 0, None, 37), lambda: mutated(500, seed=1)],
    ids=["odd", "cut", "mutated"],
)
def test_every_picture_becomes_pixels_or_a_refusal_as_it_should(
    some: Callable[[], Iterable[Case]],
) -> None:
    found = {outcome(case, CAPS) for case in some()}
    assert found == {"decoded", "refused"}
