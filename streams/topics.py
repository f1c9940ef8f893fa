"""The table of topics, read from topics.yaml. Knows nothing of any log's storage."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from streams.errors import TopicConfigError, UnknownTopicError
from streams.message import TopicPartition

TOPICS_FILE = Path(__file__).with_name("topics.yaml")

# What Kafka accepts as a topic name.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
# Lowest and highest allowed; SQLite holds values of less than 1e9 bytes.
_RANGES = {
    "partitions": (1, 10_000),
    "retention_s": (1, 10**10),
    "retention_bytes": (1, 2**60),
    "max_message_bytes": (1, 2**29),
}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic: its partitions and limits."""

    name: str
    partitions: int
    retention_s: int
    retention_bytes: int
    max_message_bytes: int

    @property
    def partition_retention_bytes(self) -> int:
        """Each partition's equal share of the topic's bytes."""
        return self.retention_bytes // self.partitions

    def all_partitions(self) -> tuple[TopicPartition, ...]:
        """Every partition, in order."""
        return tuple(TopicPartition(self.name, number) for number in range(self.partitions))


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics, by name."""

    specs: Mapping[str, TopicSpec]

    def spec(self, topic: str) -> TopicSpec:
        """The topic of that name.

        Raises:
            UnknownTopicError: there is none.
        """
        if topic not in self.specs:
            raise UnknownTopicError(topic, self.specs)
        return self.specs[topic]

    def partitions(self, topics: Iterable[str]) -> tuple[TopicPartition, ...]:
        """Every partition of the topics, in order of name and number."""
        return tuple(each for name in sorted(topics) for each in self.spec(name).all_partitions())

    def check_partition(self, partition: TopicPartition) -> None:
        """Refuse a partition that does not exist.

        Raises:
            UnknownTopicError: the topic does not exist, or has no partition of that number.
        """
        if not 0 <= partition.partition < self.spec(partition.topic).partitions:
            raise UnknownTopicError(str(partition), map(str, self.partitions([partition.topic])))


def load_topics(path: Path = TOPICS_FILE) -> Topics:
    """The topics of a YAML file, checked.

    Raises:
        TopicConfigError: the file cannot be read, or a name, key or value in it is wrong.
    """
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise TopicConfigError(f"{path}: cannot be read as YAML ({exc}); correct the file") from exc
    return parse_topics(table, source=str(path))


def parse_topics(table: object, *, source: str) -> Topics:
    """The topics of a parsed table `{name: {key: value}}`; `source` names it in errors.

    Raises:
        TopicConfigError: a name, key or value is wrong.
    """
    if not isinstance(table, dict) or not table:
        raise TopicConfigError(
            f"{source}: got {type(table).__name__}; expected a mapping of at least one topic; "
            "write `name:` with its settings indented below"
        )
    return Topics({name: _parse_spec(name, row, source) for name, row in table.items()})


def _parse_spec(name: object, row: object, source: str) -> TopicSpec:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TopicConfigError(
            f"{source}: topic name {name!r}; expected 1 to 249 of letters, digits, '.', '_', '-'; "
            "rename the topic"
        )
    settings = _checked_settings(row, where=f"{source}: topic {name!r}")
    return TopicSpec(name=name, **settings)


def _checked_settings(row: object, *, where: str) -> dict[str, int]:
    expected = tuple(each.name for each in fields(TopicSpec) if each.name != "name")
    got = sorted(map(str, row)) if isinstance(row, dict) else [type(row).__name__]
    if not isinstance(row, dict) or got != sorted(expected):
        raise TopicConfigError(
            f"{where} has {', '.join(got)}; expected exactly {', '.join(expected)}; "
            "add what is missing and remove what is unknown"
        )
    return {key: _checked_value(key, row[key], where) for key in expected}


def _checked_value(key: str, value: object, where: str) -> int:
    low, high = _RANGES[key]
    # bool is an int in Python; `partitions: true` must not mean one partition.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise TopicConfigError(
            f"{where}: {key} is {value!r}; expected a whole number from {low} to {high}; correct it"
        )
    return value
