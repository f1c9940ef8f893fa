"""Speed of the SQLite log, beside raw sequential file append and read of the same bytes.

`python -m benchmarks.streams_log`: each run sends the same messages through both, in and out; the
raw file is flushed to the disk at the end of each batch, as the log is. Knows nothing of images:
the bytes are random.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from streams import NewMessage, SqliteLog, load_topics

TOPIC = "images.unlabeled"


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent."""

    messages: int
    size_bytes: int
    batch: int

    def batches(self) -> int:
        """Number of batches; each is flushed by itself."""
        return self.messages // self.batch


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second in, out, and through both, one after the other."""

    into: float
    out: float
    both: float


def measure_log(folder: Path, load: Load, value: bytes) -> Rates:
    """Append every batch, then poll and commit until all is read."""
    with closing(SqliteLog(folder / "log.sqlite", load_topics())) as log:
        started = time.perf_counter()
        for first in range(0, load.messages, load.batch):
            keys = range(first, first + load.batch)
            log.append(TOPIC, [NewMessage(f"image-{key}", value) for key in keys])
        written = time.perf_counter()
        with closing(log.consumer("bench", [TOPIC])) as consumer:
            received = 0
            while received < load.messages:
                received += len(
                    consumer.poll(max_messages=load.batch, max_bytes=2**26, timeout_s=1)
                )
                consumer.commit(consumer.positions())
        return _rates(load, started, written, time.perf_counter())


def measure_file(folder: Path, load: Load, value: bytes) -> Rates:
    """Append every batch to one file with a flush each, then read it through."""
    path = folder / "raw"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(load.batches()):
            file.write(value * load.batch)
            os.fsync(file.fileno())
    written = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        for _ in range(load.messages):
            file.read(load.size_bytes)
    return _rates(load, started, written, time.perf_counter())


def _rates(load: Load, started: float, written: float, read: float) -> Rates:
    count = load.messages
    return Rates(count / (written - started), count / (read - written), count / (read - started))


def _measure(
    measure: Callable[[Path, Load, bytes], Rates], root: Path, load: Load, value: bytes
) -> Rates:
    with tempfile.TemporaryDirectory(dir=root) as folder:
        return measure(Path(folder), load, value)


def _row(name: str, figures: Sequence[float], unit: str) -> str:
    median, low, high = statistics.median(figures), min(figures), max(figures)
    digits = 2 if median < 10 else 0
    return f"{name:<28}{median:>10.{digits}f} {unit:<11} ({low:.{digits}f} to {high:.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print medians with their spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--size-bytes", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args(arguments)
    load = Load(
        options.messages // options.batch * options.batch, options.size_bytes, options.batch
    )
    value = os.urandom(load.size_bytes)
    pairs = [
        (
            _measure(measure_log, options.folder, load, value),
            _measure(measure_file, options.folder, load, value),
        )
        for _ in range(options.runs)
    ]
    print(
        f"{load.messages} messages of {load.size_bytes} bytes, batches of {load.batch}, "
        f"median of {options.runs} (lowest to highest)"
    )
    for part in ("into", "out", "both"):
        logs = [getattr(log, part) for log, _ in pairs]
        raws = [getattr(raw, part) for _, raw in pairs]
        print(_row(f"SQLite log, {part}", logs, "messages/s"))
        print(_row(f"raw file, {part}", raws, "messages/s"))
        print(_row("ratio", [log / raw for log, raw in zip(logs, raws, strict=True)], "x"))


if __name__ == "__main__":
    main()
