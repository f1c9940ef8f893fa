"""Links to the shared Redis that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adaptsvc.redis.link import Link
from adaptsvc.sections import StateSettings


@pytest.fixture
def open_link(redis_settings: StateSettings) -> Iterator[Callable[..., Link]]:
    """`open_link(settings=..., **options)`: a link, by default to this test's state in the shared Redis."""
    links: list[Link] = []

    def make(settings: StateSettings = redis_settings, **options: Any) -> Link:
        links.append(Link(settings, **options))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def link(open_link: Callable[..., Link]) -> Link:
    """One link to this test's state."""
    return open_link()
