"""The stream that the settings name: a file of this machine, or a Kafka cluster.

It knows nothing of what is read from it. The Kafka client is loaded only where the settings ask for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from streams.database import DatabaseSettings
from streams.log import Log
from streams.sqlite import SqliteLog
from streams.topics import load_topics

log = logging.getLogger(__name__)
IMAGES, LABELS, DEAD_LETTERS = "images.unlabeled", "images.labeled", "images.deadletter"
EVENTS = "model.events"
BUSY_TIMEOUT_S = 5.0


def open_log(settings: Settings, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Log:
    """Open the stream; its file is made when missing, topics of a cluster are not.

    Args:
        settings: which stream.
        busy_timeout_s: longest wait for other writers of the file.

    Raises:
        ConfigError: the extra `kafka` is not installed.
        StreamError: the file or cluster cannot be used, or lacks a topic.
    """
    if settings.stream.kind == "kafka":
        return _open_kafka(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    return SqliteLog(
        settings.stream_file,
        load_topics(),
        settings=DatabaseSettings(busy_timeout_s=busy_timeout_s),
        session_timeout_s=settings.stream.session_timeout_s,
    )


def retention(stream: Log) -> Callable[[float], None]:
    """What deletes the messages that streams/topics.yaml lets go; a cluster does so by itself."""
    if not isinstance(stream, SqliteLog):
        return lambda _now: None

    def enforce(now_s: float) -> None:
        if held := stream.enforce_retention(now_s).held:
            log.warning(
                "%s are past their limits and stay, because a consumer group has not read them; let it "
                "read, or give `stream.group` its former name",
                ", ".join(map(str, held)),
            )

    return enforce


def missing_client(exc: ModuleNotFoundError) -> ConfigError:
    """What to say where the Kafka client is not installed."""
    return ConfigError(
        f"stream.kind is 'kafka', and the package {exc.name} is missing; "
        "install it with pip install 'adaptsvc[kafka]'"
    )


def _open_kafka(settings: Settings) -> Log:
    try:
        from streams.kafka import KafkaLog  # loads the Kafka client
    except ModuleNotFoundError as exc:
        raise missing_client(exc) from exc
    return KafkaLog(settings.stream.cluster(), load_topics())
