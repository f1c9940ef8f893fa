"""Every setting, in one tree, read once at an entry point; it knows nothing of what uses them.

Sources, the first wins: keyword arguments, environment variables (``ADAPTSVC_LEARN__ROUND_IMAGES=256``), the
YAML file named by ``ADAPTSVC_CONFIG``, the defaults. An unknown key anywhere is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError
from yaml import YAMLError

from adaptsvc.errors import ConfigError

MOST_WORKERS = 64
PREFIX, NESTED, CONFIG_FILE = "ADAPTSVC_", "__", "ADAPTSVC_CONFIG"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImagesSettings(_Section):
    """What may be sent."""

    max_bytes: int = Field(10 * 2**20, ge=1, description="Largest encoded image, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest image, in pixels.")
    max_side: int = Field(16_384, ge=1, description="Longest side of an image, in pixels.")


class ServeSettings(_Section):
    """How the service answers."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(3000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(
        default_factory=lambda: min(len(os.sched_getaffinity(0)), MOST_WORKERS),
        ge=1,
        le=MOST_WORKERS,
        description="Service processes; the default is the number of usable cores.",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where inference runs; no silent fallback."
    )
    threads: int = Field(1, ge=1, description="Threads of one inference call on CPU.")
    concurrency: int = Field(
        2, ge=1, description="Requests computed at once per process: one infers, one decodes."
    )
    queue: int = Field(64, ge=1, description="Requests that may wait per process; more answer 429.")
    max_images: int = Field(64, ge=1, description="Images per request.")
    poll_interval_s: float = Field(0.5, gt=0, description="How often the version pointer is read.")


class SampleSettings(_Section):
    """Which answered images the service sends to the stream."""

    fraction: float = Field(
        0.0, ge=0, le=1, description="Share of the answered images that is published; 0 is off."
    )
    per_second: float = Field(
        5.0, gt=0, description="Most images a second, all service processes together."
    )
    queue_images: int = Field(
        64, ge=1, description="Images that wait to be published, per process; more are dropped."
    )
    queue_bytes: int = Field(32 * 2**20, ge=1, description="Their bytes, per process.")
    flush_s: float = Field(2.0, ge=0, description="How long a stopping service still publishes.")


class StreamSettings(_Section):
    """Where images come from."""

    group: str = Field("adaptsvc-worker", min_length=1, description="Consumer group of the worker.")
    retention_interval_s: float = Field(
        300.0, gt=0, description="How often the worker deletes what streams/topics.yaml lets go."
    )
    session_timeout_s: float = Field(
        30.0, gt=0, description="A worker silent for so long loses its partitions."
    )


class LearnSettings(_Section):
    """How a round learns."""

    objective: Literal["ueo", "information-maximisation", "entropy-minimisation"] = Field(
        "ueo", description="What a round minimises; the last two are baselines."
    )
    round_images: int = Field(256, ge=2, description="New images that start a round.")
    window_images: int = Field(512, ge=2, description="Most recent images a round learns from.")
    passes: float = Field(2.0, gt=0, description="How often a round sees each image of the window.")
    batch_images: int = Field(32, ge=2, description="Images per optimizer step.")
    learning_rate: float = Field(1e-2, ge=0, description="Of the norm parameters.")
    context_learning_rate: float = Field(1e-3, ge=0, description="Of the prompt context.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    pull: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How far a round's result goes back to the zero-shot weights; 0 is not at all.",
    )
    weight_temperature: float = Field(
        1.0, gt=0, description="Of the sample weight's softmax, in units of the logit scale."
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the worker computes.")
    threads: int = Field(0, ge=0, description="Threads of torch; 0 leaves it to torch.")
    niceness: int = Field(
        10, ge=0, le=19, description="The worker gives way to the service by so much."
    )
    checkpoint_interval_s: float = Field(30.0, gt=0, description="Between checkpoints while idle.")
    metrics_port: int = Field(0, ge=0, le=65535, description="The worker's /metrics; 0 is none.")
    seed: int = Field(0, ge=0, description="Of every random draw.")


class TuneSettings(_Section):
    """How a round learns from labels."""

    method: Literal[
        "core", "tes", "carot", "cross-entropy", "label-smoothing", "supervised-contrastive"
    ] = Field("core", description="What a round on labels minimises; the last three are baselines.")
    labels_min: int = Field(
        64, ge=0, description="New labels that start a round on labels; 0 starts none."
    )
    buffer_images: int = Field(2048, ge=2, description="Most recent labeled images that are kept.")
    held_out_share: float = Field(
        0.25, gt=0, lt=1, description="Share of the labels that is only judged by."
    )
    trained: Literal["norm", "last-block", "all"] = Field(
        "norm",
        description="Which of the image tower's weights; more than `norm` ships a whole model.",
    )
    passes: float = Field(10.0, gt=0, description="How often a round sees each labeled image.")
    batch_images: int = Field(32, ge=2, description="Images per optimizer step.")
    learning_rate: float = Field(1e-2, ge=0, description="Of the image tower.")
    head_learning_rate: float = Field(1e-2, ge=0, description="Of the class head.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of Nesterov's SGD.")
    weight_decay: float = Field(1e-4, ge=0, description="Of every trained weight.")
    interpolation: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the tuned weights, the rest is the zero-shot model (WiSE-FT); 1 is off.",
    )
    adversarial: Literal["none", "l2", "linf"] = Field(
        "none", description="Train on PGD images as well, within 0.5 (l2) or 4/255 (linf)."
    )


class GuardSettings(_Section):
    """What a candidate must keep to serve."""

    marginal_entropy_kept: float = Field(
        0.8, ge=0, le=1, description="Marginal entropy, as a share of the zero-shot model's."
    )
    agreement: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Agreement with the zero-shot model where that one is confident.",
    )
    confident_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of the window's surest zero-shot answers held as confident.",
    )
    class_kept: float = Field(
        0.05, ge=0, le=1, description="Least share of a class's zero-shot choices it must keep."
    )
    window_spread: float = Field(
        0.3, ge=0, le=1, description="Least spread of a window over the classes; 0 learns from any."
    )
    window_sure_share: float = Field(
        0.05, ge=0, le=1, description="Least share of a window that zero-shot has some idea of."
    )
    labels_min: int = Field(
        30, ge=1, description="Held-out labels that are enough to judge and calibrate by."
    )
    labels_above_chance: float = Field(
        0.1,
        ge=0,
        le=1,
        description="How far above chance labels must agree with zero-shot's surest; 0 believes any.",
    )
    refusals: int = Field(3, ge=1, description="Refused rounds in a row that freeze learning.")
    cool_down_rounds: int = Field(4, ge=1, description="Rounds that a freeze skips.")
    freezes: int = Field(3, ge=1, description="Freezes that end in going back a version.")


class OodSettings(_Section):
    """How unknown images are told."""

    score: Literal["msp", "mcm", "energy", "max_logit", "entropy"] = Field(
        "energy", description="Which score."
    )
    accepted: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="Share the threshold accepts: of held-out labeled images, else of the window.",
    )


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
    sample: SampleSettings = SampleSettings()
    stream: StreamSettings = StreamSettings()
    learn: LearnSettings = LearnSettings()
    tune: TuneSettings = TuneSettings()
    guard: GuardSettings = GuardSettings()
    ood: OodSettings = OodSettings()

    @field_validator("home")
    @classmethod
    def _expand(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def store(self) -> Path:
        """The folder of bases and versions."""
        return self.home / "store"

    @property
    def pointer(self) -> Path:
        """The file that says which version serves."""
        return self.store / "CURRENT"

    @property
    def stream_file(self) -> Path:
        """The SQLite log."""
        return self.home / "stream.sqlite"

    @property
    def checkpoint(self) -> Path:
        """The worker's checkpoint folder."""
        return self.home / "checkpoint"

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
        return Settings(**overrides)
    except ValidationError as exc:
        problems = [
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}, got {error['input']!r}"
            for error in exc.errors(include_url=False)
        ]
        raise ConfigError("; ".join(problems)) from exc
    except (SettingsError, YAMLError, ValueError, OSError) as exc:
        raise ConfigError(f"the settings cannot be read: {exc}") from exc


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting's dotted key and field, in order: the settings table of the README."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _refuse_unknown_environment() -> None:
    known = {PREFIX + key.replace(".", NESTED).upper() for key, _ in fields()} | {CONFIG_FILE}
    sections = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(
        key
        for key in os.environ
        if key.upper().startswith(PREFIX) and key.upper() not in known | sections
    )
    if unknown:
        raise ConfigError(
            f"the environment sets {', '.join(unknown)}, which adaptsvc does not know; see the settings "
            "table of the README"
        )
