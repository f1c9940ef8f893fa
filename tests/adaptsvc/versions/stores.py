"""Stores on a clock that ticks, and files that are altered for a while."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

START = datetime(2026, 5, 4, tzinfo=UTC)


def ticking() -> Callable[[], datetime]:
    """A clock that moves by a second every time it is read."""
    seconds = itertools.count()
    return lambda: START + timedelta(seconds=next(seconds))


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """The file holds `data` for a while."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)
