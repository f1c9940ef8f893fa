"""What every set of pins must do. Knows nothing of which it tests.

A test module subclasses `PinsContract` and gives it the fixture `open_pins`: one more process's view.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from adaptsvc.versions.pins import Pins


class PinsContract:
    """All of the contract."""

    def test_what_one_process_pins_every_other_sees(self, open_pins: Callable[[], Pins]) -> None:
        assert open_pins().read() == frozenset()
        assert [open_pins().add(version) for version in (3, 12, 3)] == [True, True, False]
        assert open_pins().read() == {3, 12}
        assert [open_pins().remove(version) for version in (3, 3)] == [True, False]
        assert open_pins().read() == {12}

    def test_pins_of_many_at_once_are_all_kept(self, open_pins: Callable[[], Pins]) -> None:
        threads = [threading.Thread(target=open_pins().add, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert open_pins().read() == set(range(12))

    def test_nothing_is_done_to_a_pinned_version(self, open_pins: Callable[[], Pins]) -> None:
        done: list[int] = []
        open_pins().add(1)
        for version in (0, 1, 2):
            open_pins().unless_pinned(version, partial(done.append, version))
        assert done == [0, 2]
