"""Messages refuse what no log could hold."""

from typing import Any

import pytest

from streams import InvalidMessageError, NewMessage, TopicPartition, partition_of


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((1, b""), "key is int; expected str"),
        (("\ud800", b""), "key .* has no UTF-8 form"),
        (("k", "text"), "value is str; expected bytes"),
        (("k", bytearray()), "value is bytearray"),
        (("k", b"", {"h": "text"}), "header 'h' is str"),
        (("k", b"", {1: b""}), "header name is int"),
    ],
)
def test_a_part_of_the_wrong_type_is_refused(parts: tuple[Any, ...], says: str) -> None:
    with pytest.raises(InvalidMessageError, match=says):
        NewMessage(*parts)


def test_the_size_counts_key_headers_and_value_in_bytes() -> None:
    assert NewMessage("ü", b"abc", {"é": b"12345"}).size_bytes == 2 + 3 + 2 + 5


def test_the_partition_of_a_key_is_its_crc_32() -> None:
    # The check value of CRC-32 in every catalogue of checksums.
    assert partition_of("123456789", 2**32) == 0xCBF43926
    assert partition_of("123456789", 4) == 2


def test_a_partition_is_written_as_topic_and_number() -> None:
    assert str(TopicPartition("images", 3)) == "images[3]"
