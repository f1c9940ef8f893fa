"""Claims about the command: what it refuses, what it prints, what it loads."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.stream_command import evaluate_stream
from tests.adaptsvc.evaluation.conftest import MakeTree
from tests.test_architecture import SERVICE, loaded


@pytest.fixture
def signals() -> Iterator[None]:
    """The command puts its own handlers in place; afterwards those of before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def invoke(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(evaluate_stream)
    return CliRunner().invoke(app, arguments)


def test_the_options_load_no_torch() -> None:
    assert loaded("adaptsvc.evaluation.stream_command").isdisjoint(SERVICE)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--known", "cat,unicorn", "unicorn"),
        ("--stream", "flood", "flood, which is no stream"),
        ("--domains", "clay", "clay"),
        ("--seeds", "x", "--seeds is 'x'"),
        ("--guard", "perhaps", "--guard is 'perhaps'"),
        ("--pull", "-1", "--pull is '-1'"),
        ("--rounds-images", "1", "learn.round_images"),
    ],
)
def test_wrong_use_is_a_config_error_that_names_it(
    make_tree: MakeTree, option: str, value: str, message: str
) -> None:
    error = invoke(str(make_tree().root), option, value).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)


def test_a_run_prints_json_alone_on_stdout_and_understands_names_with_blanks(
    make_tree: MakeTree, eval_settings: Callable[..., Settings], tmp_path: Path, signals: None
) -> None:
    settings, out = eval_settings(), tmp_path / "out"
    shutil.copytree(settings.home, out / "cache")  # exported already
    root = make_tree(("photo",), {"cat": 4, "sea_lion": 4, "zebra": 4}).root
    options = "--stream flipped-labels --guard off --known cat,sea_lion --rounds-images 4"
    done = invoke(
        str(root), *options.split(), "--json", "--model", settings.model, "--out", str(out)
    )
    assert done.exit_code == 0, done.exception
    (row,) = json.loads(done.stdout)["results"]
    assert (row["stream"], row["guard"], row["dead_letters"]) == ("flipped-labels", False, 0)
    assert "flipped-labels" in done.stderr
