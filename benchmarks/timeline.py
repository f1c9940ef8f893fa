"""A client that notes when each answer came and which version gave it, and the figure of its notes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import percentile
from benchmarks.serving import FINE, HEADERS_END, HOST, LENGTH, REPLY_TIMEOUT_S

NO_VERSION = -1
RECONNECT_S = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent, how long it took, and the version that is named.

    Attributes:
        at_s: since the client started.
        ms: until the last byte.
        version: ``NO_VERSION`` where it failed.
        why: it failed: the status line, or what happened to the connection.
    """

    at_s: float
    ms: float
    version: int
    why: str = ""


@dataclass(slots=True)
class Client:
    """So many connections with one request each on its way, until it is told to stop.

    Attributes:
        answers: so far, in the order in which they came.
        started: when the client did (`time.perf_counter`).
    """

    port: int
    requests: Sequence[bytes]
    connections: int
    answers: list[Answer] = field(default_factory=list)
    started: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[Client]:
        """It asks in a thread of its own."""
        self.started = time.perf_counter()
        thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="client")
        thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            thread.join()

    def now_s(self) -> float:
        """Since it started."""
        return time.perf_counter() - self.started

    def between(self, first_s: float, last_s: float) -> list[Answer]:
        """The answers to what was sent in that time."""
        return [each for each in self.answers if first_s <= each.at_s < last_s]

    async def _ask(self) -> None:
        await asyncio.gather(*(self._connection(n) for n in range(self.connections)))

    async def _connection(self, number: int) -> None:
        while not self.stop.is_set():
            sent = time.perf_counter()
            try:
                reader, writer = await asyncio.open_connection(HOST, self.port)
                with closing(writer):
                    while not self.stop.is_set():
                        sent = time.perf_counter()
                        writer.write(self.requests[number % len(self.requests)])
                        number += self.connections
                        reply = await asyncio.wait_for(_read(reader), REPLY_TIMEOUT_S)
                        self._note(sent, *reply)
            except (OSError, EOFError, TimeoutError) as exc:
                self._note(sent, NO_VERSION, type(exc).__name__)
                await asyncio.sleep(RECONNECT_S)

    def _note(self, sent: float, version: int, why: str) -> None:
        ms = 1000 * (time.perf_counter() - sent)
        self.answers.append(Answer(sent - self.started, ms, version, why))


async def _read(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The version that one response names, or why there is none."""
    head = await reader.readuntil(HEADERS_END)
    length = int(head.lower().partition(LENGTH)[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if head.startswith(FINE):
        return int(json.loads(body)["model_version"]), ""
    return NO_VERSION, head.partition(b"\r\n")[0].decode()


def failed(answers: Sequence[Answer]) -> int:
    """How many requests got no answer."""
    return sum(each.version == NO_VERSION for each in answers)


def latency_ms(answers: Sequence[Answer], share: float) -> float:
    """A percentile of the answered."""
    return percentile([each.ms for each in answers if each.version != NO_VERSION], share)


def draw(answers: Sequence[Answer], swaps_s: Sequence[float], title: str, path: Path) -> None:
    """Latency over time, with a mark wherever the pointer moved; needs the extra `report`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [each.at_s for each in answers],
        [each.ms for each in answers],
        ".",
        ms=2,
        alpha=0.35,
        color="tab:blue",
        label="one request",
    )
    for name, share, colour in (("median", 0.5, "black"), ("p99", 0.99, "tab:red")):
        seconds = sorted({int(each.at_s) for each in answers})
        groups = [[a for a in answers if int(a.at_s) == second] for second in seconds]
        line = [latency_ms(group, share) for group in groups]
        axes.plot(
            [s + 0.5 for s in seconds], line, color=colour, lw=1.2, label=f"{name}, per second"
        )
    for number, at_s in enumerate(swaps_s):
        label = "another version is chosen" if number == 0 else None
        axes.axvline(at_s, color="tab:green", lw=0.8, alpha=0.7, label=label)
    axes.set(xlabel="seconds", ylabel="ms", title=title, ylim=(0, None))
    axes.legend(loc="upper right", ncols=2, framealpha=0.95)
    figure.savefig(path, dpi=110, facecolor="white")
