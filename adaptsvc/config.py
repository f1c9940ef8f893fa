"""Every setting, in one tree, read once at an entry point; it knows nothing of what uses them.

Sources, the first wins: keyword arguments, environment variables (``ADAPTSVC_LEARN__ROUND_IMAGES=256``), the
YAML file named by ``ADAPTSVC_CONFIG``, the defaults. An unknown key anywhere is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError
from yaml import YAMLError

from adaptsvc.errors import ConfigError
from adaptsvc.sections import (
    DriftSettings,
    GuardSettings,
    ImagesSettings,
    LearnSettings,
    OodSettings,
    SampleSettings,
    StateSettings,
    StreamSettings,
    TuneSettings,
    VersionsSettings,
    check_classes,
)
from adaptsvc.serve_section import ServeSettings
from adaptsvc.shadow_section import ShadowSettings
from adaptsvc.tracing_section import TracingSettings
from adaptsvc.types import Task

SECRET = re.compile(r"key|password", re.IGNORECASE)  # in the name of a setting
PREFIX, NESTED, CONFIG_FILE = "ADAPTSVC_", "__", "ADAPTSVC_CONFIG"
NEARLY = 0.9  # so alike is a name to the one that was meant
API_KEY = "ADAPTSVC_API_KEY"  # no setting of ours, but of whoever asks a service


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    home: Path = Field(Path("~/.adaptsvc"), description="Versions, stream and checkpoint.")
    model: str = Field(
        "lite",
        description="`lite`, `NAME/PRETRAINED` of open_clip, `hf-hub:...` or `local-dir:...`.",
    )
    classes: tuple[str, ...] = Field(
        ("cat", "dog", "bird", "horse", "car", "person"),
        min_length=2,
        description="Class names (JSON).",
    )
    prompt: str = Field("a photo of a {}.", description="Template; `{}` is the class name.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Of the log."
    )
    images: ImagesSettings = ImagesSettings()
    serve: ServeSettings = ServeSettings()
    state: StateSettings = StateSettings()
    versions: VersionsSettings = VersionsSettings()
    sample: SampleSettings = SampleSettings()
    stream: StreamSettings = StreamSettings()
    learn: LearnSettings = LearnSettings()
    tune: TuneSettings = TuneSettings()
    guard: GuardSettings = GuardSettings()
    shadow: ShadowSettings = ShadowSettings()
    ood: OodSettings = OodSettings()
    drift: DriftSettings = DriftSettings()
    tracing: TracingSettings = TracingSettings()

    @field_validator("home")
    @classmethod
    def _expand(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return check_classes(classes)

    @property
    def task(self) -> Task:
        """Class names and template."""
        return Task(self.classes, self.prompt)

    def working_for(self, task: Task) -> Settings:
        """The same settings with other class names and another template."""
        return self.model_copy(update={"classes": task.classes, "prompt": task.prompt})

    @property
    def store(self) -> Path:
        """The folder of bases and versions."""
        return self.home / "store"

    @property
    def pointer(self) -> Path:
        """The file that says which version serves."""
        return self.store / "CURRENT"

    @property
    def last_seen(self) -> Path:
        """What the pointer said last, for a service that cannot ask."""
        return self.store / "LAST_SEEN"

    @property
    def pins(self) -> Path:
        """The file with the versions that people keep."""
        return self.store / "PINS"

    @property
    def tasks(self) -> Path:
        """The file with the classes that people asked for."""
        return self.store / "CLASSES"

    @property
    def board(self) -> Path:
        """The file in which the worker tells the service of drift."""
        return self.store / "DRIFT"

    @property
    def shadow_board(self) -> Path:
        """The file in which the worker tells the service of candidates."""
        return self.store / "SHADOW"

    @property
    def shadow_reports(self) -> Path:
        """The folder in which service processes tell the worker what they found of one."""
        return self.store / "shadow-reports"

    @property
    def lease(self) -> Path:
        """The file with the token of the worker that writes."""
        return self.store / "WORKER"

    @property
    def slow(self) -> Path:
        """The file that the service touches while it is slow."""
        return self.home / "SLOW"

    @property
    def stream_file(self) -> Path:
        """The SQLite log."""
        return self.home / "stream.sqlite"

    @property
    def checkpoint(self) -> Path:
        """The worker's checkpoint folder."""
        return self.home / "checkpoint"

    @property
    def replayed(self) -> Path:
        """The file that says up to where dead letters were sent back."""
        return self.home / "replayed.json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments, environment, YAML."""
        file = os.environ.get(CONFIG_FILE)
        yaml = YamlConfigSettingsSource(settings_cls, yaml_file=file)
        return init_settings, env_settings, yaml


def read(**overrides: Any) -> Settings:
    """The settings of this process.

    Raises:
        ConfigError: an unknown key, a value out of range, or a file that cannot be read.
    """
    _refuse_unknown_environment()
    file = os.environ.get(CONFIG_FILE)
    if file and not Path(file).is_file():
        raise ConfigError(
            f"{CONFIG_FILE} names {file!r}, which is no file; point it at a YAML file"
        )
    try:
        settings = Settings(**overrides)
        if settings.stream.kind == "kafka":
            settings.stream.cluster()
        return settings
    except ValidationError as exc:
        raise ConfigError("; ".join(_problems(exc))) from exc
    except SettingsError as exc:
        raise ConfigError(
            f"the settings cannot be read: {exc}; lists and sections are written as JSON, as in "
            """ADAPTSVC_CLASSES='["cat", "dog"]'"""
        ) from exc
    except (YAMLError, ValueError, OSError) as exc:
        raise ConfigError(f"the settings cannot be read: {exc}") from exc


def _problems(error: ValidationError) -> list[str]:
    """One for each setting; where it may be of several kinds, what each of them expects."""
    settings = {key for key, _ in fields()}
    expected: dict[tuple[str, str], list[str]] = {}  # by setting and what came
    for problem in error.errors(include_url=False):
        place = problem["loc"]
        key = ".".join(map(str, place))
        if place and isinstance(place[-1], str) and key not in settings:
            setting = ".".join(map(str, place[:-1]))  # the last part may be the name of a kind
            key = setting if setting in settings else key
        came = _shown(key, problem["input"])
        expected.setdefault((key, came), []).append(problem["msg"])
    return [f"{key}: {' or: '.join(wants)}, got {came}" for (key, came), wants in expected.items()]


def _shown(key: str, value: object) -> str:
    """A value for an error message, without secrets and the credentials of a URL."""
    if SECRET.search(key) or isinstance(value, dict):
        return "a value that is not shown"
    return re.sub(r"//[^/@]*@", "//***@", repr(value))


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting's dotted key and field, in order: the settings table of the README."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _refuse_unknown_environment() -> None:
    known = {PREFIX + key.replace(".", NESTED).upper() for key, _ in fields()} | {
        CONFIG_FILE,
        API_KEY,
    }
    sections = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(
        key
        for key in os.environ
        if key.upper().startswith(PREFIX) and key.upper() not in known | sections
    )
    if unknown:
        meant = sorted(
            {near for key in unknown for near in get_close_matches(key.upper(), known, 1, NEARLY)}
        )
        hint = f"did you mean {', '.join(meant)}? All are in" if meant else "see"
        raise ConfigError(
            f"the environment sets {', '.join(unknown)}, which adaptsvc does not know; {hint} the settings "
            "table of the README"
        )
