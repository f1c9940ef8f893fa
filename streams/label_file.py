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
        InvalidMessageError: it lacks a column, or a row has an empty cell.
        OSError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise InvalidMessageError(
                f"{path} has the columns {reader.fieldnames}; expected {', '.join(COLUMNS)} in its first line"
            )
        rows = [LabelRow(row["image"] or "", row["label"] or "") for row in reader]
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
        file = folder / row.image
        data = file.read_bytes() if file.is_file() else b""
        yield NewMessage(row.image, data, {HEADER: row.label.encode(), "source": b"label"})
