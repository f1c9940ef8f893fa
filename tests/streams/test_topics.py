"""The table of topics is checked, and its errors say what to do."""

from pathlib import Path

import pytest

from streams import TopicConfigError, TopicPartition, UnknownTopicError, load_topics, parse_topics

ROW = {"partitions": 2, "retention_s": 60, "retention_bytes": 101, "max_message_bytes": 10}


def test_the_packaged_table_names_the_four_topics_and_allows_8_mb_images() -> None:
    topics = load_topics()
    assert sorted(topics.specs) == [
        "images.deadletter",
        "images.labeled",
        "images.unlabeled",
        "model.events",
    ]
    images, letters = topics.spec("images.unlabeled"), topics.spec("images.deadletter")
    assert images.max_message_bytes > 8 * 2**20
    # A dead letter carries the original and more headers.
    assert letters.max_message_bytes > images.max_message_bytes


def test_a_topic_has_its_partitions_and_their_share_of_the_bytes() -> None:
    topics = parse_topics({"t": ROW}, source="here")
    assert topics.spec("t").partition_retention_bytes == 50
    assert topics.partitions(["t"]) == (TopicPartition("t", 0), TopicPartition("t", 1))
    with pytest.raises(UnknownTopicError, match=r"t\[2\].*expected one of t\[0\], t\[1\]"):
        topics.check_partition(TopicPartition("t", 2))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([], "here: got list; expected a mapping"),
        ({}, "at least one topic"),
        ({"a b": ROW}, "topic name 'a b'; expected 1 to 249"),
        ({1: ROW}, "topic name 1"),
        ({"t": 3}, "topic 't' has int; expected exactly partitions"),
        ({"t": {**ROW, "retain": 1}}, "retain.*remove what is unknown"),
        ({"t": {"partitions": 1}}, "has partitions; expected exactly"),
        ({"t": {**ROW, "partitions": 0}}, "partitions is 0; expected a whole number from 1"),
        ({"t": {**ROW, "partitions": True}}, "partitions is True"),
        ({"t": {**ROW, "retention_s": 1.5}}, "retention_s is 1.5"),
    ],
)
def test_a_wrong_table_is_refused_with_its_reason(table: object, says: str) -> None:
    with pytest.raises(TopicConfigError, match=says):
        parse_topics(table, source="here")


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\xfd"])
def test_a_file_that_is_not_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "topics.yaml"
    file.write_bytes(content)
    with pytest.raises(TopicConfigError, match=r"topics\.yaml: cannot be read"):
        load_topics(file)
