"""What every place for reports must do. Knows nothing of which it tests.

A test module subclasses `ReportsContract` and gives it the fixture `open_reports`: one more process's view.
"""

from __future__ import annotations

from collections.abc import Callable

from adaptsvc.versions.reports import Reports


class ReportsContract:
    """All of the contract."""

    def test_every_process_reads_what_each_wrote_last(
        self, open_reports: Callable[[], Reports]
    ) -> None:
        assert open_reports().read() == {}
        for name, text in (("a1", b"first"), ("b2", bytes(range(256)) * 100), ("a1", b"second")):
            open_reports().write(name, text)
        assert open_reports().read() == {"a1": b"second", "b2": bytes(range(256)) * 100}

    def test_what_was_forgotten_can_be_written_again(
        self, open_reports: Callable[[], Reports]
    ) -> None:
        open_reports().clear()
        open_reports().write("a1", b"before")
        open_reports().clear()
        assert open_reports().read() == {}
        open_reports().write("a1", b"after")
        assert open_reports().read() == {"a1": b"after"}
