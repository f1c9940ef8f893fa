"""The sections of the settings; they know nothing of where their values come from or of what uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from adaptsvc.serve_section import Section
from streams.kafka_settings import Compression, KafkaSettings, Mechanism, Security

LONGEST_NAME, LONGEST_PROMPT, SHORTEST_KEY = 200, 500, 32


def check_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names that can be told apart, and printed.

    Raises:
        ValueError: one cannot, or is too long.
    """
    bad = [n for n in classes if not n.strip() or not n.isprintable() or len(n) > LONGEST_NAME]
    if bad:
        raise ValueError(
            f"expected printable class names of 1 to {LONGEST_NAME} characters, got {bad[0][:60]!r}"
        )
    if len(set(classes)) < len(classes):
        raise ValueError("expected each class name once")
    return classes


def check_prompt(template: str) -> str:
    """A template that a class name can fill, with a word before it: those words are what is learned.

    Raises:
        ValueError: it is none.
    """
    before, _, _ = template.partition("{}")
    braces = template.count("{") == template.count("}") == template.count("{}") == 1
    if not (braces and before.strip() and template.isprintable()):
        raise ValueError(
            f"expected words and then one '{{}}' for the class name, as in 'a photo of a {{}}.', got "
            f"{template[:60]!r}"
        )
    if len(template) > LONGEST_PROMPT:
        raise ValueError(
            f"expected at most {LONGEST_PROMPT} characters of template, got {len(template)}"
        )
    return template


class ImagesSettings(Section):
    """What may be sent."""

    max_bytes: int = Field(10 * 2**20, ge=1, description="Largest encoded image, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest image, in pixels.")
    max_side: int = Field(16_384, ge=1, description="Longest side of an image, in pixels.")


class KafkaSection(Section):
    """The cluster, where `stream.kind` is `kafka`."""

    servers: str = Field(
        "127.0.0.1:9092", description="Some of the brokers as `host:port`, separated by commas."
    )
    security: Security = Field(
        "PLAINTEXT", description="`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`."
    )
    mechanism: Mechanism = Field(
        "SCRAM-SHA-512", description="Of SASL: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`."
    )
    username: str = Field("", description="For SASL.")
    password: SecretStr = Field(SecretStr(""), description="For SASL.")
    ca_file: str = Field("", description="Certificate authorities (PEM); empty is the system's.")
    certificate_file: str = Field("", description="This client's certificate (PEM).")
    key_file: str = Field("", description="This client's private key (PEM).")
    compression: Compression = Field(
        "none",
        description="`none`, `gzip`, `snappy`, `lz4` or `zstd`; images are compressed already.",
    )
    request_timeout_s: float = Field(
        15.0,
        gt=0.5,
        le=300,
        description="Longest wait for an answer; an append may take twice that.",
    )
    max_poll_interval_s: float = Field(
        300.0, gt=0, description="A worker that hangs for so long loses its partitions."
    )
    step_budget_s: float = Field(
        120.0, gt=0, description="Longest step or export you expect; longer ones are warned of."
    )
    fetch_bytes: int = Field(
        32 * 2**20, ge=2**16, description="Most that one fetch brings, in bytes."
    )
    replication_factor: int = Field(
        -1,
        ge=-1,
        description="Copies of topics made by `topics create`; -1 is the cluster's default.",
    )


class StateSettings(Section):
    """Where pointer, versions and lease are, which all processes share."""

    kind: Literal["file", "redis"] = Field(
        "file", description="`file`: under `home`, for one machine; `redis`: for several."
    )
    url: str = Field(
        "redis://127.0.0.1:6379/0", description="Of Redis, without credentials; `rediss://` is TLS."
    )
    username: str = Field("", description="User of Redis; empty is its default user.")
    password: SecretStr = Field(SecretStr(""), description="Password of Redis; empty is none.")
    ca_file: str = Field(
        "", description="Certificate authorities for `rediss://` (PEM); empty is the system's."
    )
    prefix: str = Field(
        "adaptsvc",
        pattern=r"^[\w.-]+$",
        description="Of every key in Redis; one per installation.",
    )
    timeout_s: float = Field(2.0, gt=0, le=60, description="Longest wait for Redis, per answer.")
    lease_s: float = Field(
        15.0, ge=1, description="A worker silent for so long loses the right to write (Redis)."
    )
    max_version_bytes: int = Field(
        32 * 2**20,
        ge=1,
        le=512 * 2**20,
        description="Largest version that goes to Redis, in bytes.",
    )
    max_base_bytes: int = Field(
        512 * 2**20, ge=1, description="Largest base model that goes to Redis, in bytes."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query:
            raise ValueError("expected redis://HOST:PORT/DB or rediss://HOST:PORT/DB")
        if parts.username or parts.password:
            raise ValueError("expected no credentials; use state.username and state.password")
        return url


class VersionsSettings(Section):
    """Which versions are kept, and believed."""

    keep: int = Field(
        20,
        ge=1,
        description="Newest versions whose weights are kept, beside pinned and needed ones.",
    )
    signing_keys: SecretStr = Field(
        SecretStr(""),
        description="Sign versions, and refuse others; the first signs, all verify; spaces between.",
    )
    signing_keys_file: str = Field("", description="A file with such keys instead, one a line.")

    def keys(self) -> tuple[str, ...]:
        """The signing keys, the one that signs first.

        Raises:
            OSError: the file cannot be read.
            ValueError: they are given twice, there are none in the file, or one is short.
        """
        keys = tuple(self.signing_keys.get_secret_value().split())
        if self.signing_keys_file:
            if keys:
                raise ValueError("expected versions.signing_keys or the file, not both")
            keys = tuple(Path(self.signing_keys_file).read_text(encoding="utf-8").split())
            if not keys:
                raise ValueError(f"{self.signing_keys_file} holds none, expected one a line")
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise ValueError(
                f"expected at least {SHORTEST_KEY} characters a key; 'openssl rand -hex 32' makes one"
            )
        return keys


class SampleSettings(Section):
    """Which answered images the service sends to the stream."""

    fraction: float = Field(
        0.0, ge=0, le=1, description="Share of the answered images that is published; 0 is off."
    )
    per_second: float = Field(
        5.0,
        gt=0,
        description="Most images a second, all processes of a service together; each replica has as much.",
    )
    queue_images: int = Field(
        64, ge=1, description="Images that wait to be published, per process; more are dropped."
    )
    queue_bytes: int = Field(32 * 2**20, ge=1, description="Their bytes, per process.")
    flush_s: float = Field(2.0, ge=0, description="How long a stopping service still publishes.")


class StreamSettings(Section):
    """Where images come from."""

    kind: Literal["sqlite", "kafka"] = Field(
        "sqlite", description="A file under `home`, or a Kafka cluster (extra `kafka`)."
    )
    group: str = Field("adaptsvc-worker", min_length=1, description="Consumer group of the worker.")
    retention_interval_s: float = Field(
        300.0, gt=0, description="How often the worker deletes what streams/topics.yaml lets go."
    )
    session_timeout_s: float = Field(
        30.0, gt=0, description="A worker silent for so long loses its partitions."
    )
    kafka: KafkaSection = KafkaSection()

    def cluster(self) -> KafkaSettings:
        """The cluster, as the stream takes it.

        Raises:
            ValueError: settings of it contradict each other.
        """
        values = self.kafka.model_dump()
        values["servers"] = tuple(each.strip() for each in self.kafka.servers.split(","))
        values["password"] = self.kafka.password.get_secret_value()
        for name in ("ca_file", "certificate_file", "key_file"):
            values[name] = Path(values[name]) if values[name] else None
        return KafkaSettings(
            **values,
            session_timeout_s=self.session_timeout_s,
            heartbeat_interval_s=self.session_timeout_s / 10,
        )


class LearnSettings(Section):
    """How a round learns."""

    objective: Literal["ueo", "information-maximisation", "entropy-minimisation"] = Field(
        "ueo", description="What a round minimises; the last two are baselines."
    )
    round_images: int = Field(256, ge=2, description="New images that start a round.")
    window_images: int = Field(
        512, ge=2, description="Images a round learns from: new ones, and a sample of those before."
    )
    window_bytes: int = Field(
        2**28, ge=1, description="Most memory of the window, in bytes; full, it pauses reading."
    )
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
    weight_temperature: Annotated[float, Field(gt=0)] | Literal["logit_scale"] = Field(
        "logit_scale",
        description="Divides the logits of the sample weight's softmax; logit_scale leaves raw cosines.",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the worker computes.")
    autocast: Literal["off", "bfloat16"] = Field(
        "off", description="Precision of the image tower in a round's steps; off is float32."
    )
    threads: int = Field(
        0, ge=0, description="Threads of torch; 0 leaves it to torch, within the usable cores."
    )
    niceness: int = Field(
        10, ge=0, le=19, description="The worker gives way to the service by so much."
    )
    give_way_s: float = Field(
        1.0, ge=0, description="Longest wait before a step while the service is slow."
    )
    checkpoint_interval_s: float = Field(30.0, gt=0, description="Between checkpoints while idle.")
    metrics_port: int = Field(0, ge=0, le=65535, description="The worker's /metrics; 0 is none.")
    seed: int = Field(0, ge=0, description="Of every random draw.")


class TuneSettings(Section):
    """How a round learns from labels."""

    method: Literal[
        "core", "tes", "carot", "cross-entropy", "label-smoothing", "supervised-contrastive"
    ] = Field("core", description="What a round on labels minimises; the last three are baselines.")
    labels_min: int = Field(
        64, ge=0, description="New labels that start a round on labels; 0 starts none."
    )
    buffer_images: int = Field(2048, ge=2, description="Most recent labeled images that are kept.")
    buffer_bytes: int = Field(2**29, ge=1, description="Most memory they take, in bytes.")
    label_ttl_s: float = Field(
        86_400.0, gt=0, description="How long a label waits for its image, and the other way round."
    )
    labels_waiting: int = Field(
        10_000, ge=1, description="Labels that may wait for their images at once."
    )
    images_remembered: int = Field(
        20_000, ge=1, description="Images of the stream that a later label can be for."
    )
    held_out_share: float = Field(
        0.25, gt=0, lt=1, description="Share of the labels that is only judged by."
    )
    trained: Literal["norm", "last-block", "all"] = Field(
        "norm",
        description="Which of the image tower's weights; more than `norm` ships a whole model.",
    )
    passes: float = Field(10.0, gt=0, description="How often a round sees each labeled image.")
    batch_images: int = Field(32, ge=2, description="Images per optimizer step.")
    learning_rate: float = Field(3e-2, ge=0, description="Of the image tower.")
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


class GuardSettings(Section):
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
    window_information: float = Field(
        0.23,
        ge=0,
        le=1,
        description="Least that zero-shot tells a window's images apart, in [0, 1]; 0 learns from any.",
    )
    labels_min: int = Field(
        30, ge=1, description="Held-out labels that are enough to judge and calibrate by."
    )
    labels_significance: float = Field(
        0.01,
        ge=0.001,
        le=1,
        description="Share of random orders of the labels that may fit zero-shot as well; 1 believes any.",
    )
    refusals: int = Field(3, ge=1, description="Refused rounds in a row that freeze learning.")
    cool_down_rounds: int = Field(4, ge=1, description="Rounds that a freeze skips.")
    freezes: int = Field(3, ge=1, description="Freezes that end in going back a version.")


class DriftSettings(Section):
    """How a change of the stream is told."""

    reference_images: int = Field(
        512,
        ge=32,
        le=10_000,
        description="Images that are the reference of drift: the newest at a promotion, the first before.",
    )
    recent_images: int = Field(
        128, ge=16, le=10_000, description="Newest images whose distance from it is told."
    )
    images_per_false_alarm: int = Field(
        10_000,
        ge=100,
        description="On a stream that stays as it is, on average at least; all signals together.",
    )


class OodSettings(Section):
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
