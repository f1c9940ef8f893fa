"""Claims about tables: nothing is left out of them, however narrow the screen."""

from __future__ import annotations

import pytest

from adaptsvc.tables import print_table


@pytest.mark.parametrize("width", [40, 80, 200])
def test_what_is_too_wide_is_broken_and_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    path, name = "/data/" + "long-folder-name/" * 9, "metrics.gain_over_zero_shot_estimate"
    print_table("", ("file", "the name of a column"), [(path, name), ("[/]", "[bold]cat[/bold]")])
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    first, second = ("".join(cell.strip() for cell in cells) for cells in zip(*lines, strict=True))
    assert first == path + "[/]"
    assert second == name + "[bold]cat[/bold]"
