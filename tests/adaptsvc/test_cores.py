"""Claims about how many cores count as ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adaptsvc.cores import folders_of, quota, usable_cores


def test_there_is_at_least_one_and_never_more_than_our_affinity() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", ["", "max 100000", "-1 100000", "100000", "5 0", "a b"])
def test_what_names_no_limit_is_none(text: str) -> None:
    assert quota(text) == float("inf")


def test_version_1_groups_lie_under_their_controllers() -> None:
    own = "3:memory:/x\n2:cpu,cpuacct:/a\n"
    found = [str(folder) for folder in folders_of(own, Path("/c"))]
    assert found == ["/c", "/c/cpu", "/c/cpu,cpuacct/a"]
