"""Claims about the tables of the commands."""

from __future__ import annotations

from types import ModuleType

import pytest

from adaptsvc import cli, versions_command


@pytest.mark.parametrize("module", [cli, versions_command])
def test_names_in_brackets_are_printed_as_they_are(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    module._table("", ("class", "prompt"), [("[/]", "a [red] {}")])
    assert "[/]" in (told := capsys.readouterr().out)
    assert "a [red] {}" in told
