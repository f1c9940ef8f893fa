"""Claims about bentofile.yaml: a service started from the Bento finds whatever its settings may ask for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BENTO = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What the service loads for state.kind=redis, for samples that go to Kafka, and for spans, beside itself.
LATE = (
    "adaptsvc.redis.depot",
    "adaptsvc.redis.lease",
    "adaptsvc.redis.notices",
    "streams.kafka",
    "adaptsvc.opentelemetry",
)
EXTRAS = ("kafka", "redis", "tracing")
ROOTS = ("adaptsvc", "streams")


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """The files of ours that a service may load."""
    code = (
        f"import sys, adaptsvc.serving.service, {', '.join(LATE)}; "
        f"print(*[m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] in {ROOTS}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [Path(name).relative_to(ROOT) for name in done.stdout.split()]


def imported(file: Path) -> set[str]:
    """The packages that a file imports anywhere in it, by their top name."""
    nodes = [*ast.walk(ast.parse((ROOT / file).read_text()))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    others = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in plain | others}


def name_of(requirement: str) -> str:
    """The package of a requirement, in one spelling."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def included(file: Path) -> bool:
    """Whether the Bento holds a file; ``**`` stands for any folders, none among them."""
    kept, left = (
        [pattern.replace("/**/*", "/*").replace("/**", "/*") for pattern in BENTO[part]]
        for part in ("include", "exclude")
    )
    path = file.as_posix()
    return any(fnmatch(path, p) for p in kept) and not any(fnmatch(path, p) for p in left)


def test_every_module_a_service_may_load_is_in_the_bento(files: list[Path]) -> None:
    assert Path("adaptsvc/redis/depot.py") in files
    assert Path("streams/kafka_member.py") in files
    assert [str(file) for file in files if not included(file)] == []


def test_the_page_is_in_the_bento() -> None:
    page = [path.relative_to(ROOT) for path in (ROOT / "adaptsvc/serving/ui").rglob("*.*")]
    assert len(page) > 10
    assert [str(file) for file in page if not included(file)] == []


def test_every_package_they_import_is_in_the_bento(files: list[Path]) -> None:
    needed = {name for file in files for name in imported(file)}
    others = needed - sys.stdlib_module_names - {*ROOTS}
    distributions = packages_distributions()
    there = {name_of(each) for each in BENTO["python"]["packages"]}
    missing = {
        name
        for name in others
        if there.isdisjoint(each.lower().replace("_", "-") for each in distributions[name])
    }
    assert missing <= {"anyio", "starlette"}  # FastAPI is made of them
    assert {"kafka", "redis", "opentelemetry"} <= others


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_extras_a_service_may_need_are_in_the_bento(extra: str) -> None:
    assert {*PROJECT["optional-dependencies"][extra]} <= {*BENTO["python"]["packages"]}


def test_every_package_of_the_bento_is_asked_for_as_the_project_does() -> None:
    extras = PROJECT["optional-dependencies"]
    known = [*PROJECT["dependencies"], *(each for name in EXTRAS for each in extras[name])]
    assert {*BENTO["python"]["packages"]} <= {each.partition(";")[0] for each in known}


def test_the_bento_has_no_torch() -> None:
    learning = {name_of(each) for each in PROJECT["optional-dependencies"]["learn"]}
    assert learning.isdisjoint(name_of(each) for each in BENTO["python"]["packages"])
