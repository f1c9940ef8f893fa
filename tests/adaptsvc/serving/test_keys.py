"""Claims about API keys: kept as hashes, told apart, and printed once."""

from __future__ import annotations

import json
import math

import pytest
from typer.testing import CliRunner

from adaptsvc import config
from adaptsvc.cli import app
from adaptsvc.errors import ConfigError
from adaptsvc.serving.keys import ROLES, KeyHash, Keys, keys_of, new_key


@pytest.mark.parametrize("role", ROLES)
def test_a_key_is_found_by_its_hash_with_its_name_and_role(role: str) -> None:
    pairs = [new_key(f"{each}-{n}", each) for each in ROLES for n in range(3)]
    keys = keys_of([str(known) for _, known in pairs])
    for key, known in pairs:
        assert keys.find(key) == known


def test_another_key_is_found_by_nobody() -> None:
    key, known = new_key("one", "data")
    keys = Keys([known])
    for other in ("", key[:-1], key + "x", key.upper(), known.sha256, new_key("two", "data")[0]):
        assert keys.find(other) is None


def test_keys_are_random_and_long() -> None:
    made = {new_key("same", "data")[0] for _ in range(200)}
    assert len(made) == 200
    random_part = min(len(key.removeprefix("adaptsvc-data-")) for key in made)
    assert random_part * math.log2(64) >= 256


def test_the_settings_hold_no_key() -> None:
    key, known = new_key("one", "admin")
    assert key not in str(known)
    assert KeyHash.parse(str(known)) == known


def test_the_command_prints_a_key_and_the_line_that_lets_it_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = CliRunner().invoke(app, ["keys", "new", "--role", "admin", "--name", "ops", "--json"])
    made = json.loads(done.stdout)
    monkeypatch.setenv("ADAPTSVC_SERVE__KEYS", json.dumps([made["hash"]]))
    found = keys_of(config.read().serve.keys).find(made["key"])
    assert found is not None
    assert (found.name, found.role) == ("ops", "admin")


@pytest.mark.parametrize("arguments", [["--role", "root"], ["--name", "a:b"], ["--name", "a\nb"]])
def test_wrong_use_of_the_command_says_what_is_right(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["keys", "new", *arguments])
    assert isinstance(done.exception, ConfigError)
    assert "expected" in str(done.exception)


def test_a_key_put_where_its_hash_belongs_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, _ = new_key("one", "data")
    monkeypatch.setenv("ADAPTSVC_SERVE__KEYS", json.dumps([f"one:data:{key}"]))
    with pytest.raises(ConfigError, match=r"serve\.keys") as raised:
        config.read()
    assert key not in str(raised.value)


def test_two_keys_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [str(new_key("one", role)[1]) for role in ROLES]
    monkeypatch.setenv("ADAPTSVC_SERVE__KEYS", json.dumps(lines))
    with pytest.raises(ConfigError, match="a name of its own"):
        config.read()
