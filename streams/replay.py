"""Sends images to a topic: from files, at a rate. Knows nothing of what reads them.

`streams.again` gives the messages of a topic instead of files.
"""

import mimetypes
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from streams.log import Log
from streams.message import NewMessage

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
BATCH_MESSAGES = 64
BATCH_BYTES = 8 << 20  # an append holds the log; one larger message goes alone


def image_files(folder: Path) -> list[Path]:
    """Every image file under a folder, in the order of their paths."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)


def file_messages(files: Iterable[Path], *, root: Path) -> Iterator[NewMessage]:
    """One message per file; its path below `root` is the image id."""
    for file in files:
        image_id = file.relative_to(root).as_posix()
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        headers = {
            "content-type": kind.encode(),
            "image-id": image_id.encode(errors="surrogateescape"),
            "source": b"replay",
        }
        yield NewMessage(image_id, file.read_bytes(), headers)


def send(
    log: Log,
    topic: str,
    messages: Iterable[NewMessage],
    *,
    rate: float,
    sent: Callable[[int], None] = lambda _count: None,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Append messages in batches, at most `rate` a second on average.

    Args:
        log: where to.
        topic: where to.
        messages: what.
        rate: messages a second; infinity does not wait.
        sent: told the size of each batch.
        sleep: waits so many seconds.
        now: monotonic seconds; what appending takes is not waited for as well.

    Returns:
        How many were sent.

    Raises:
        StreamError: the log refused a batch; those before it were sent.
    """
    if not rate > 0:
        raise ValueError(f"rate is {rate} messages a second; expected more than 0")
    size = max(1, min(BATCH_MESSAGES, int(rate))) if rate < float("inf") else BATCH_MESSAGES
    total, started = 0, now()
    for batch in _batches(messages, size):
        log.append(topic, batch)
        total += len(batch)
        sent(len(batch))
        if rate < float("inf"):
            sleep(max(0.0, started + total / rate - now()))
    return total


def _batches(messages: Iterable[NewMessage], most: int) -> Iterator[list[NewMessage]]:
    """So many messages at most, and no more than fit in `BATCH_BYTES` once there is one."""
    batch, size_bytes = list[NewMessage](), 0
    for message in messages:
        if batch and size_bytes + message.size_bytes > BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(message)
        size_bytes += message.size_bytes
        if len(batch) == most:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
