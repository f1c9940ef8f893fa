"""Settings: where they come from, and that what is unknown or out of range is an error naming it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from pydantic import BaseModel, ValidationError

from adaptsvc.config import Settings, fields, read
from adaptsvc.cores import usable_cores
from adaptsvc.errors import ConfigError
from adaptsvc.state import seal_of

WriteYaml: TypeAlias = Callable[[str], None]
OUT_OF_RANGE = [
    ("SERVE__PORT", "70000", "serve.port", "less than or equal to 65535"),
    ("SERVE__PORT", "0", "serve.port", "greater than or equal to 1"),
    ("SERVE__WORKERS", "65", "serve.workers", "less than or equal to 64"),
    ("SERVE__POLL_INTERVAL_S", "0", "serve.poll_interval_s", "greater than 0"),
    ("SERVE__DEVICE", "tpu", "serve.device", "'cpu' or 'cuda'"),
    ("IMAGES__MAX_BYTES", "0", "images.max_bytes", "greater than or equal to 1"),
    ("STREAM__GROUP", "", "stream.group", "at least 1 character"),
    ("LEARN__OBJECTIVE", "tent", "learn.objective", "'ueo'"),
    ("LEARN__LEARNING_RATE", "-1", "learn.learning_rate", "greater than or equal to 0"),
    ("LEARN__LEARNING_RATE", "nan", "learn.learning_rate", "finite"),
    ("LEARN__MOMENTUM", "1", "learn.momentum", "less than 1"),
    ("LEARN__NICENESS", "20", "learn.niceness", "less than or equal to 19"),
    ("LEARN__ROUND_IMAGES", "1.5", "learn.round_images", "valid integer"),
    ("GUARD__AGREEMENT", "1.1", "guard.agreement", "less than or equal to 1"),
    ("GUARD__CONFIDENT_SHARE", "0", "guard.confident_share", "greater than 0"),
    ("OOD__ACCEPTED", "1", "ood.accepted", "less than 1"),
    ("OOD__SCORE", "odin", "ood.score", "'msp'"),
    ("STATE__KIND", "etcd", "state.kind", "'file' or 'redis'"),
    ("STATE__URL", "http://host", "state.url", "expected redis://HOST:PORT/DB"),
    ("STATE__URL", "redis://", "state.url", "expected redis://HOST:PORT/DB"),
    ("STATE__URL", "redis://host?db=1", "state.url", "expected redis://HOST:PORT/DB"),
    ("STATE__PREFIX", "a:b", "state.prefix", "should match"),
    ("STATE__PREFIX", "", "state.prefix", "should match"),
    ("STATE__TIMEOUT_S", "0", "state.timeout_s", "greater than 0"),
    ("STATE__LEASE_S", "0.5", "state.lease_s", "greater than or equal to 1"),
    ("STATE__MAX_VERSION_BYTES", "0", "state.max_version_bytes", "greater than or equal to 1"),
    ("CLASSES", '["one"]', "classes", "at least 2"),
    ("LOG_LEVEL", "LOUD", "log_level", "'DEBUG'"),
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [key for key in os.environ if key.upper().startswith("ADAPTSVC_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteYaml:
    """Writes the file that ADAPTSVC_CONFIG names."""

    def write(text: str) -> None:
        (tmp_path / "config.yaml").write_text(text)
        monkeypatch.setenv("ADAPTSVC_CONFIG", str(tmp_path / "config.yaml"))

    return write


def test_without_sources_there_are_the_defaults() -> None:
    found = read()
    assert (found.learn.objective, found.serve.port, found.model) == ("ueo", 3000, "lite")
    assert found.serve.workers == min(usable_cores(), 64)


def test_yaml_beats_defaults_environment_beats_yaml_arguments_beat_all(
    write_yaml: WriteYaml, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_yaml("learn: {seed: 1, round_images: 11, window_images: 111}\nprompt: from yaml {}")
    monkeypatch.setenv("ADAPTSVC_LEARN__ROUND_IMAGES", "22")
    monkeypatch.setenv("ADAPTSVC_PROMPT", "from environment {}")
    found = read(prompt="from argument {}")
    assert found.prompt == "from argument {}"
    assert (found.learn.seed, found.learn.round_images, found.learn.window_images) == (1, 22, 111)
    assert found.learn.passes == read().learn.passes


def test_a_section_and_a_list_may_be_given_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTSVC_OOD", '{"score": "energy"}')
    monkeypatch.setenv("ADAPTSVC_CLASSES", '["cat", "żaba"]')
    assert read().ood.score == "energy"
    assert read().classes == ("cat", "żaba")


def test_an_empty_yaml_file_changes_nothing(write_yaml: WriteYaml) -> None:
    before = read()
    write_yaml("")
    assert read() == before


@pytest.mark.parametrize(
    ("text", "key"), [("lern: {seed: 1}", "lern"), ("learn: {sed: 1}", "learn.sed")]
)
def test_an_unknown_key_in_yaml_is_an_error_naming_it(
    write_yaml: WriteYaml, text: str, key: str
) -> None:
    write_yaml(text)
    with pytest.raises(ConfigError, match=f"^{key}: Extra inputs are not permitted"):
        read()


def test_what_a_setting_of_two_kinds_expects_is_said_once_under_its_own_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADAPTSVC_LEARN__WEIGHT_TEMPERATURE", "-3")
    wanted = (
        "learn.weight_temperature: Input should be greater than 0 or: "
        "Input should be 'logit_scale', got '-3'"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(wanted)}$"):
        read()


def test_what_is_wrong_in_a_list_is_told_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTSVC_CLASSES", '["cat", "dog", 3]')
    with pytest.raises(ConfigError, match=r"^classes\.2: .* got 3$"):
        read()


@pytest.mark.parametrize(
    "name",
    ["ADAPTSVC_LERN", "ADAPTSVC_LEARN__SED", "ADAPTSVC_LEARN_SEED", "adaptsvc_x", "ADAPTSVC_"],
)
def test_an_unknown_environment_variable_is_an_error_naming_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"environment sets {name}, which adaptsvc does not know"):
        read()


def test_an_unknown_environment_variable_that_is_nearly_a_setting_is_told_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADAPTSVC_LEARN__SED", "1")
    with pytest.raises(ConfigError, match="did you mean ADAPTSVC_LEARN__SEED"):
        read()


def test_an_unknown_key_in_a_json_section_or_an_argument_is_an_error_naming_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"^colour: Extra inputs .*, got 'red'"):
        read(colour="red")
    monkeypatch.setenv("ADAPTSVC_LEARN", '{"sed": 1}')
    with pytest.raises(ConfigError, match=r"^learn.sed: Extra inputs"):
        read()


@pytest.mark.parametrize(("name", "value", "key", "allowed"), OUT_OF_RANGE)
def test_a_value_out_of_range_names_key_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str, allowed: str
) -> None:
    monkeypatch.setenv(f"ADAPTSVC_{name}", value)
    with pytest.raises(ConfigError) as raised:
        read()
    message = str(raised.value)
    assert message.startswith(f"{key}: ")
    assert allowed in message
    assert value.strip('[]"') in message


def test_every_problem_is_reported_at_once(write_yaml: WriteYaml) -> None:
    write_yaml("learn: {momentum: 2, seed: -1}\nlern: 3")
    with pytest.raises(ConfigError, match=r"learn.momentum: .*; learn.seed: .*; lern: "):
        read()


@pytest.mark.parametrize(
    "text", ["- a", "only words", "learn: [", "learn: 3", "a: b: c", "learn: !!python/none x"]
)
def test_yaml_that_is_no_tree_of_settings_is_a_config_error(
    write_yaml: WriteYaml, text: str
) -> None:
    write_yaml(text)
    with pytest.raises(ConfigError):
        read()


@pytest.mark.parametrize("name", ["CLASSES", "LEARN"])
def test_malformed_json_in_the_environment_is_an_error_naming_the_field(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"ADAPTSVC_{name}", "{cat")
    with pytest.raises(ConfigError, match=f'settings cannot be read: .*"{name.lower()}".* as JSON'):
        read()


def test_a_config_file_that_is_not_there_is_an_error_naming_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADAPTSVC_CONFIG", str(tmp_path / "missing.yaml"))
    with pytest.raises(
        ConfigError, match=r"ADAPTSVC_CONFIG names .*missing.yaml', which is no file"
    ):
        read()


def test_home_expands_and_holds_everything_that_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read().home == tmp_path / ".adaptsvc"
    found = read(home=Path("~/elsewhere"))
    paths = [
        found.store,
        found.pointer,
        found.lease,
        found.last_seen,
        found.stream_file,
        found.checkpoint,
    ]
    assert all(path.is_relative_to(tmp_path / "elsewhere") for path in paths)
    assert len(set(paths)) == 6
    monkeypatch.chdir(tmp_path)
    assert read(home=Path("here")).home == tmp_path / "here"


def test_reading_the_settings_makes_no_folder(tmp_path: Path) -> None:
    read(home=tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_frozen() -> None:
    found = read()
    with pytest.raises(ValidationError, match="frozen"):
        found.model = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        found.learn.seed = 3  # type: ignore[misc]


def leaves(values: object, prefix: str = "") -> list[str]:
    """Dotted keys of a dumped tree."""
    if not isinstance(values, dict):
        return [prefix.rstrip(".")]
    return [key for name, value in values.items() for key in leaves(value, f"{prefix}{name}.")]


def test_fields_lists_every_leaf_once_in_order() -> None:
    assert [key for key, _ in fields()] == leaves(read().model_dump())


def test_every_field_is_described_and_no_section_is_listed() -> None:
    for key, field in fields():
        assert field.description, key
        assert not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))


def test_every_field_can_be_set_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each to its default, as text: none is refused as unknown."""
    default = read()
    for key, _ in fields():
        value: object = default
        for part in key.split("."):
            value = getattr(value, part)
        value = ("cat", "dog") if key == "classes" else value
        text = json.dumps(value) if isinstance(value, tuple) else str(value)
        monkeypatch.setenv("ADAPTSVC_" + key.replace(".", "__").upper(), text)
    assert read() == default.model_copy(update={"classes": ("cat", "dog")})


def test_defaults_of_every_section_are_within_their_own_ranges() -> None:
    for section in Settings.model_fields.values():
        if isinstance(section.default, BaseModel):
            again = type(section.default).model_validate(section.default.model_dump())
            assert again == section.default


def test_a_password_in_the_url_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTSVC_STATE__URL", "redis://eve:hidden@host:6379/0")
    with pytest.raises(ConfigError, match=r"use state\.username and state\.password") as raised:
        read()
    assert "hidden" not in str(raised.value)
    assert "redis://***@host:6379/0" in str(raised.value)


def test_the_password_is_not_shown_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTSVC_STATE__PASSWORD", "hidden")
    found = read()
    assert found.state.password.get_secret_value() == "hidden"
    assert "hidden" not in repr(found) + str(found) + found.model_dump_json()


def test_a_password_that_is_no_text_is_not_shown(write_yaml: WriteYaml) -> None:
    write_yaml("state: {password: 918273}\nstream: {kafka: {password: 5551212}}\n")
    with pytest.raises(
        ConfigError, match=r"state\.password: .* got a value that is not shown"
    ) as raised:
        read()
    assert "918273" not in str(raised.value)
    assert "5551212" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["cat\n2026 INFO forged", "cat\x1b[2J", "", " ", "x" * 201, "\u2028cat"]
)
def test_a_class_name_that_cannot_be_printed_or_is_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ADAPTSVC_CLASSES", json.dumps(["dog", name]))
    with pytest.raises(ConfigError, match="expected printable class names") as raised:
        read()
    assert str(raised.value).isprintable()


def test_a_class_name_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTSVC_CLASSES", '["dog", "dog"]')
    with pytest.raises(ConfigError, match="each class name once"):
        read()


@pytest.mark.parametrize("keys", ["short", "k" * 32 + " short"])
def test_a_short_signing_key_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    monkeypatch.setenv("ADAPTSVC_VERSIONS__SIGNING_KEYS", keys)
    with pytest.raises(ConfigError, match="at least 32 characters a key") as raised:
        seal_of(read().versions)
    assert "short" not in str(raised.value)


def test_signing_keys_come_from_a_file_too_and_not_from_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("a" * 32 + "\n" + "b" * 32 + "\n")
    monkeypatch.setenv("ADAPTSVC_VERSIONS__SIGNING_KEYS_FILE", str(file))
    assert read().versions.keys() == ("a" * 32, "b" * 32)
    monkeypatch.setenv("ADAPTSVC_VERSIONS__SIGNING_KEYS", "c" * 32)
    with pytest.raises(ConfigError, match="or the file, not both"):
        seal_of(read().versions)
    monkeypatch.delenv("ADAPTSVC_VERSIONS__SIGNING_KEYS")
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        seal_of(read().versions)
