"""Claims about labels read from a file and sent as messages."""

from pathlib import Path

import pytest

from streams.errors import InvalidMessageError
from streams.label_file import LabelRow, label_messages, read_labels


def written(folder: Path, text: str) -> Path:
    file = folder / "labels.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_rows_are_read_by_the_names_of_their_columns(tmp_path: Path) -> None:
    file = written(tmp_path, 'label,note,image\ndog,x,a.jpg\n"ankle, boot",y,b/c.jpg\n')
    assert read_labels(file) == [LabelRow("a.jpg", "dog"), LabelRow("b/c.jpg", "ankle, boot")]


@pytest.mark.parametrize("text", ["", "file,label\na,dog\n", "image\na\n"])
def test_a_missing_column_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidMessageError, match="expected image, label in its first line"):
        read_labels(written(tmp_path, text))


def test_an_empty_cell_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidMessageError, match=r"line 3 of .*labels.csv has an empty cell"):
        read_labels(written(tmp_path, "image,label\na.jpg,dog\nb.jpg,\n"))


def test_a_file_brings_its_bytes_and_an_id_brings_none(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    rows = [LabelRow("a.jpg", "dog"), LabelRow("seen-before", "Straße")]
    first, second = label_messages(rows, folder=tmp_path)
    assert (first.key, first.value, first.headers["label"]) == ("a.jpg", b"picture", b"dog")
    assert (second.key, second.value) == ("seen-before", b"")
    assert second.headers["label"].decode() == "Straße"


@pytest.mark.parametrize("image", ["../secret.txt", "/etc/hostname", "link.txt"])
def test_no_file_outside_the_folder_is_read(tmp_path: Path, image: str) -> None:
    (tmp_path / "secret.txt").write_bytes(b"secret")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (message,) = label_messages([LabelRow(image, "dog")], folder=folder)
    assert (message.key, message.value) == (image, b"")


def test_an_id_that_no_file_could_have_is_an_id(tmp_path: Path) -> None:
    (message,) = label_messages([LabelRow("x" * 300, "dog")], folder=tmp_path)
    assert message.value == b""


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("image,label\na,dog\n", encoding="utf-8-sig")
    assert read_labels(file) == [LabelRow("a", "dog")]


def test_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes("image,label\na,Füße\n".encode("latin-1"))
    with pytest.raises(InvalidMessageError, match=r"labels\.csv is no CSV in UTF-8"):
        read_labels(file)
