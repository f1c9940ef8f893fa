"""A board in a file keeps the contract, and says when it cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptsvc.errors import StateUnavailableError
from adaptsvc.versions.board import Board, FileBoard
from tests.adaptsvc.versions.contract_board import BoardContract


@pytest.fixture
def open_board(tmp_path: Path) -> Callable[[], Board]:
    return lambda: FileBoard(tmp_path / "DRIFT")


class TestFileBoard(BoardContract):
    """All of the contract."""


def test_a_board_that_is_no_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "DRIFT").mkdir()
    with pytest.raises(StateUnavailableError, match="cannot be read"):
        FileBoard(tmp_path / "DRIFT").read()
