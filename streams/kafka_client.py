"""The edge to kafka-python: options, records and errors in our own terms.

The one place that maps an error of the client. Knows nothing of groups or of who calls.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import kafka
from kafka.errors import KafkaConfigurationError, KafkaError
from kafka.net.compat import KafkaNetClient

from streams.errors import BrokerUnavailableError
from streams.kafka_settings import KafkaSettings
from streams.message import Message, TopicPartition
from streams.topics import TopicSpec

# Room in a batch for its own header, and that of each record, beside what `size_bytes` counts.
_OVERHEAD_BYTES = 64 * 2**10
_BROKER_DEFAULT_BYTES = 2**20


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What consumers, producers and admins of kafka-python have in common."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.servers),
        "client_id": "streams",
        "security_protocol": settings.security,
        "request_timeout_ms": milliseconds(settings.request_timeout_s),
        "bootstrap_timeout_ms": milliseconds(settings.request_timeout_s),
        "reconnect_backoff_max_ms": 1000,
    }
    if "SASL" in settings.security:
        options |= {
            "sasl_mechanism": settings.mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password,
        }
    files = {
        "ssl_cafile": settings.ca_file,
        "ssl_certfile": settings.certificate_file,
        "ssl_keyfile": settings.key_file,
    }
    return options | {name: str(path) for name, path in files.items() if path is not None}


def connect(kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """A consumer, producer or admin; one that finds no broker leaves no thread behind.

    kafka-python 3.0 by itself leaves its thread, and the sockets of its tries, for each.
    """
    made: list[KafkaNetClient] = []

    def net_client(**configs: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**configs))
        return made[-1]

    try:
        return kind(**options, kafka_client=net_client)
    except BaseException:
        for each in made:
            each.close()
        raise


def milliseconds(seconds: float) -> int:
    """Whole ones, rounded up, so that a short wait is not none."""
    return -int(-seconds * 1000 // 1)


def batch_limit_bytes(spec: TopicSpec) -> int:
    """What the broker must take in one batch: Kafka's limit is on batches, ours on messages."""
    return max(spec.max_message_bytes + _OVERHEAD_BYTES, _BROKER_DEFAULT_BYTES)


@contextmanager
def broker_errors(settings: KafkaSettings) -> Iterator[None]:
    """Turn what the client raises into a `BrokerUnavailableError`."""
    try:
        yield
    except KafkaConfigurationError as exc:
        raise BrokerUnavailableError(
            settings.where, f"the client refuses its options: {exc}"
        ) from exc
    except KafkaError as exc:
        raise BrokerUnavailableError(settings.where, str(exc)) from exc
    except (RuntimeError, UnicodeDecodeError) as exc:
        # A codec whose package is not there, or a header name that is not UTF-8.
        raise BrokerUnavailableError(settings.where, str(exc)) from exc


def theirs(partition: TopicPartition) -> Any:
    """A partition as the client names it."""
    return kafka.TopicPartition(partition.topic, partition.partition)


def ours(partition: Any) -> TopicPartition:
    """A partition of the client as we name it."""
    return TopicPartition(partition.topic, partition.partition)


def message_of(record: Any) -> Message:
    """A consumed record; what other programs may leave out or encode otherwise has a plain form.

    No key or value is an empty one, a key that is not UTF-8 shows its bytes as ``\\xff``, and of
    headers of one name the last counts.
    """
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=(record.key or b"").decode(errors="backslashreplace"),
        value=record.value or b"",
        headers=_headers(record.headers),
        timestamp_s=record.timestamp / 1000,
    )


def _headers(headers: Any) -> Mapping[str, bytes]:
    return {name: value or b"" for name, value in headers}
