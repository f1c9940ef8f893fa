"""Claims about the Dockerfile: hadolint finds nothing, and what it copies, installs and starts is there."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from adaptsvc.cli import app
from adaptsvc.config import Settings
from tests.deploy.tools import program, said

ROOT = Path(__file__).parents[2]
FILE = ROOT / "Dockerfile"
TEXT = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAGES = re.split(r"^(?=FROM )", TEXT, flags=re.MULTILINE)[1:]


def stage(name: str) -> str:
    """The instructions of a stage and of those it is built upon and copies from."""
    (own,) = [each for each in STAGES if re.match(rf"FROM \S+ AS {name}\n", each)]
    names = {match for each in STAGES for match in re.findall(r"^FROM \S+ AS (\S+)", each)}
    used = {*re.findall(r"^FROM (\S+)|--from=(\S+)", own, re.MULTILINE)}
    return own + "".join(stage(each) for pair in used for each in pair if each in names)


def extras(name: str) -> set[str]:
    """The extras that a stage installs."""
    return {
        each for found in re.findall(r"'\.\[(.*?)\]'", stage(name)) for each in found.split(",")
    }


def test_hadolint_finds_nothing() -> None:
    assert said(program("hadolint", "install the extra `dev`"), str(FILE)) == ""


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert all((ROOT / source).exists() for source in copied)
    assert sorted(copied) == sorted(kept)


def test_a_wheel_can_be_built_of_what_is_copied() -> None:
    for named in (PROJECT["readme"], *PROJECT["license-files"]):
        assert re.search(rf"^COPY .*\b{named}\b", TEXT, re.MULTILINE)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for pattern in packages["packages"]["find"]["include"]:
        assert any(fnmatch(name, pattern) for name in re.findall(r"^COPY (\w+) \w+$", TEXT, re.M))


def test_only_the_worker_has_torch() -> None:
    assert extras("serving") == {"kafka", "redis", "tracing"}
    assert extras("worker") == {"kafka", "learn", "redis", "tracing"}
    assert "torch" not in stage("serving")
    assert extras("serving") | extras("worker") <= PROJECT["optional-dependencies"].keys()


def test_torch_is_asked_for_as_the_project_does() -> None:
    for name in re.findall(r"'(torch\S*)'", stage("worker")):
        assert name in PROJECT["optional-dependencies"]["learn"]


@pytest.mark.parametrize(("name", "command"), [("serving", "serve"), ("worker", "worker")])
def test_an_image_starts_its_command_as_nobody_special(name: str, command: str) -> None:
    text = stage(name)
    (start,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert json.loads(start) == ["adaptsvc", command]
    commands: Any = get_command(app)
    assert command in commands.commands
    (user,) = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert int(user[0]) > 0


def test_the_port_that_is_exposed_is_the_services() -> None:
    assert re.findall(r"^EXPOSE (\d+)$", TEXT, re.MULTILINE) == [str(Settings().serve.port)]


def test_every_base_is_a_version_of_python_that_the_project_takes() -> None:
    bases = [each for each in re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE) if ":" in each]
    assert len({*bases}) == 1
    (version,) = re.findall(r"^python:3\.(\d+)\.\d+-slim-\w+$", bases[0])
    assert int(version) >= int(PROJECT["requires-python"].rpartition(".")[2])


def test_everything_that_is_written_lies_in_the_home() -> None:
    (home,) = re.findall(r"ADAPTSVC_HOME=(\S+)", TEXT)
    assert f"VOLUME {home}\n" in TEXT
    assert f"HF_HOME={home}/hub" in TEXT
