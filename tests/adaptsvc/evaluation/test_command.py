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
from adaptsvc.evaluation.command import evaluate
from adaptsvc.versions.store import VersionStore
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
    app.command()(evaluate)
    return CliRunner().invoke(app, arguments)


def test_the_options_load_no_torch() -> None:
    assert loaded("adaptsvc.evaluation.command").isdisjoint(SERVICE)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--known", "cat,unicorn", "unicorn"),
        ("--setting", "ajar", "'ajar'; choose from closed"),
        ("--domains", "clay", "clay"),
        ("--seeds", "x", "--seeds is 'x'"),
        ("--passes", "-1", "learn.passes"),
        ("--method", "tent", "tent, which is no method"),
    ],
)
def test_wrong_use_is_a_config_error_that_names_it(
    make_tree: MakeTree, option: str, value: str, message: str
) -> None:
    error = invoke(str(make_tree().root), option, value).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)


def test_a_run_prints_json_alone_on_stdout_and_tables_beside_it(
    make_tree: MakeTree, eval_settings: Callable[..., Settings], tmp_path: Path, signals: None
) -> None:
    settings, out = eval_settings(), tmp_path / "out"
    shutil.copytree(settings.home, out / "cache")  # exported already
    root = make_tree(("photo",), {"cat": 4, "dog": 4, "sea_lion": 4, "zebra": 4}).root
    options = "--method zero-shot,ueo --setting open --seeds 1 --known cat,sea_lion --passes 1"
    done = invoke(
        str(root), *options.split(), "--json", "--model", settings.model, "--out", str(out)
    )
    assert done.exit_code == 0, done.exception
    summary = json.loads(done.stdout)
    assert [row["method"] for row in summary["results"]] == ["zero-shot", "ueo"]
    assert "accuracy %" in done.stderr
    assert len(list((out / "cache" / "store" / "base").iterdir())) == 1


def test_an_underscore_in_a_folder_is_a_blank_in_the_prompt(
    make_tree: MakeTree, eval_settings: Callable[..., Settings], tmp_path: Path, signals: None
) -> None:
    settings, out = eval_settings(), tmp_path / "out"
    shutil.copytree(settings.home, out / "cache")
    root = make_tree((), {"sea_lion": 2, "zebra": 2}).root
    arguments = ["--model", settings.model, "--method", "zero-shot", "--setting", "closed"]
    assert invoke(str(root), *arguments, "--out", str(out)).exit_code == 0
    store = VersionStore(out / "cache" / "store")
    assert store.manifest(store.ids()[-1]).classes == ("sea lion", "zebra")
