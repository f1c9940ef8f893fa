"""Pins in Redis keep the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adaptsvc.redis.link import Link
from adaptsvc.redis.pins import RedisPins
from adaptsvc.versions.pins import Pins
from tests.adaptsvc.versions.contract_pins import PinsContract


@pytest.fixture
def open_pins(open_link: Callable[..., Link]) -> Callable[[], Pins]:
    return lambda: RedisPins(open_link())


class TestRedisPins(PinsContract):
    """All of the contract."""
