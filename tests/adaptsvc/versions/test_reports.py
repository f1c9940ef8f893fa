"""Reports in a folder keep the contract, and say when they cannot be read or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptsvc.errors import StateUnavailableError
from adaptsvc.versions.reports import FileReports, Reports
from tests.adaptsvc.versions.contract_reports import ReportsContract


@pytest.fixture
def open_reports(tmp_path: Path) -> Callable[[], Reports]:
    return lambda: FileReports(tmp_path / "reports")


class TestFileReports(ReportsContract):
    """All of the contract."""


def test_reports_that_are_no_files_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "reports" / "a1").mkdir(parents=True)
    with pytest.raises(StateUnavailableError, match="cannot be read"):
        FileReports(tmp_path / "reports").read()
    (tmp_path / "file").touch()
    with pytest.raises(StateUnavailableError, match="cannot be written"):
        FileReports(tmp_path / "file").write("a1", b"")
