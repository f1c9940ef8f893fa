"""Labels as messages, from a CSV file. Knows nothing of which class names there are or of what reads them."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.errors import InvalidMessageError
from streams.message import NewMessage

COLUMNS = ("image", "label")
HEADER = "label"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of a file of labels.

    Attributes:
        image: path of an image file, or the id of an image that was sent before.
        label: a class name.
    """

    image: str
    label: str


def read_labels(path: Path) -> list[LabelRow]:
    """The rows of a CSV file with the columns `image` and `label`.

    Raises:
        InvalidMessageError: it is no CSV in UTF-8, lacks a column, or a row has an empty cell.
        OSError: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            rows = [LabelRow(row.get("image") or "", row.get("label") or "") for row in reader]
    except (UnicodeError, csv.Error) as exc:
        raise InvalidMessageError(f"{path} is no CSV in UTF-8: {exc}; save it as one") from exc
    if not set(COLUMNS) <= set(columns):
        raise InvalidMessageError(
            f"{path} has the columns {list(columns)}; expected {', '.join(COLUMNS)} in its first line"
        )
    for number, row in enumerate(rows, start=2):
        if not (row.image and row.label):
            raise InvalidMessageError(
                f"line {number} of {path} has an empty cell; fill or remove it"
            )
    return rows


def label_messages(rows: Sequence[LabelRow], *, folder: Path) -> Iterator[NewMessage]:
    """One message per row: the file's bytes where `image` names one below `folder`, else no bytes.

    The image id is what the row says, which is also what `streams.replay` calls a file of that folder.
    """
    for row in rows:
        file = image_file(row.image, folder)
        data = file.read_bytes() if file else b""
        yield NewMessage(row.image, data, {HEADER: row.label.encode(), "source": b"label"})


def image_file(image: str, folder: Path) -> Path | None:
    """The file of that name below a folder, links followed; a name can be an id that no file could have."""
    try:
        file = (folder / image).resolve()
        return file if file.is_relative_to(folder.resolve()) and file.is_file() else None
    except (OSError, ValueError):
        return None
