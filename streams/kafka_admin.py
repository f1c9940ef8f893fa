"""The topics of a cluster beside topics.yaml: made where missing, compared where there.

Knows nothing of messages or groups.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kafka
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError

from streams.errors import TopicConfigError
from streams.kafka_client import batch_limit_bytes, broker_errors, client_options, connect
from streams.kafka_settings import KafkaSettings
from streams.topics import Topics, TopicSpec

PARTITIONS = "partitions"
_CONFIGS: Mapping[str, Callable[[TopicSpec], int]] = {
    "retention.ms": lambda spec: spec.retention_s * 1000,
    "retention.bytes": lambda spec: spec.partition_retention_bytes,  # Kafka's is per partition
    "max.message.bytes": batch_limit_bytes,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a cluster is not as topics.yaml says; `found` is None where the topic is missing.

    >>> str(Difference("images", "retention.ms", wanted=1000, found=500))
    'images: retention.ms is 500; expected 1000'
    """

    topic: str
    setting: str
    wanted: int
    found: int | None

    def __str__(self) -> str:
        found = "missing" if self.found is None else self.found
        return f"{self.topic}: {self.setting} is {found}; expected {self.wanted}"


def create_topics(settings: KafkaSettings, topics: Topics) -> tuple[str, ...]:
    """Make the topics that are missing; those that are there stay as they are.

    Returns:
        The names of those made.

    Raises:
        BrokerUnavailableError: the cluster did not answer, or refused.
    """
    with _admin(settings) as admin:
        there = _partitions(admin, topics)
        missing = [spec for name, spec in sorted(topics.specs.items()) if name not in there]
        return tuple(spec.name for spec in missing if _create(admin, settings, spec))


def check_topics(settings: KafkaSettings, topics: Topics) -> tuple[Difference, ...]:
    """Each difference between the cluster and the table.

    Raises:
        BrokerUnavailableError: the cluster did not answer, or refused.
    """
    with _admin(settings) as admin:
        there = _partitions(admin, topics)
        configs = _configs(admin, there)
    differences: list[Difference] = []
    for name, spec in sorted(topics.specs.items()):
        wanted = {PARTITIONS: spec.partitions, **topic_configs(spec)}
        found = {PARTITIONS: there.get(name), **configs.get(name, {})}
        names = wanted if name in there else [PARTITIONS]
        differences += [
            Difference(name, each, wanted[each], found.get(each))
            for each in names
            if wanted[each] != found.get(each)
        ]
    return tuple(differences)


def check_partitions(settings: KafkaSettings, topics: Topics) -> None:
    """Refuse a cluster on which a key would lie in another partition than the table says.

    Raises:
        TopicConfigError: a topic is missing, or has another number of partitions.
        BrokerUnavailableError: the cluster did not answer, or refused.
    """
    with _admin(settings) as admin:
        there = _partitions(admin, topics)
    wrong = [
        str(Difference(name, PARTITIONS, spec.partitions, there.get(name)))
        for name, spec in sorted(topics.specs.items())
        if there.get(name) != spec.partitions
    ]
    if wrong:
        raise TopicConfigError(
            f"{settings.where}: {'; '.join(wrong)}; create the topics that are missing (`adaptsvc "
            "topics create`), and correct topics.yaml where the numbers differ"
        )


def topic_configs(spec: TopicSpec) -> dict[str, int]:
    """What a topic is configured with on a cluster, as the table says."""
    return {name: value_of(spec) for name, value_of in _CONFIGS.items()}


@contextmanager
def _admin(settings: KafkaSettings) -> Iterator[Any]:
    with broker_errors(settings):
        admin = connect(kafka.KafkaAdminClient, client_options(settings))
        try:
            yield admin
        finally:
            admin.close()


def _create(admin: Any, settings: KafkaSettings, spec: TopicSpec) -> bool:
    options = {
        "num_partitions": spec.partitions,
        "replication_factor": settings.replication_factor,
        "configs": {name: str(value) for name, value in topic_configs(spec).items()},
    }
    try:
        admin.create_topics({spec.name: options}, wait_for_metadata=True)
    except TopicAlreadyExistsError:  # another was faster
        return False
    return True


def _partitions(admin: Any, topics: Topics) -> dict[str, int]:
    """The number of partitions of each topic of the table that is there."""
    listed = {str(name) for name in admin.list_topics()} & topics.specs.keys()
    if not listed:
        return {}
    return {
        str(each["name"]): len(each["partitions"]) for each in admin.describe_topics(sorted(listed))
    }


def _configs(admin: Any, there: Mapping[str, int]) -> dict[str, dict[str, int]]:
    wanted = [
        ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_CONFIGS, ""))
        for name in sorted(there)
    ]
    if not wanted:
        return {}
    found = admin.describe_configs(wanted, config_filter="all")
    return {
        name: {key: int(entry["value"]) for key, entry in entries.items() if key in _CONFIGS}
        for topics in found.values()
        for name, entries in topics.items()
    }
