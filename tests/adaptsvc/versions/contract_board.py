"""What every board must do. Knows nothing of which it tests.

A test module subclasses `BoardContract` and gives it the fixture `open_board`: one more process's view.
"""

from __future__ import annotations

from collections.abc import Callable

from adaptsvc.versions.board import Board


class BoardContract:
    """All of the contract."""

    def test_what_one_process_wrote_last_every_other_reads(
        self, open_board: Callable[[], Board]
    ) -> None:
        assert open_board().read() is None
        for text in (b"first", b"", "zażółć".encode(), bytes(range(256)) * 100):
            open_board().write(text)
            assert open_board().read() == text
