"""Whether the service leaks over HTTP, and how it shares: `python -m benchmarks.http_memory`.

The real service with its processes, a tiny ViT, and clients that keep their connections: RSS of each process
after every thousandth of `--requests` requests, over the requests that this process answered. Which process
has which connection is read from the kernel, so the requests of each are counted exactly. How connections are
spread is measured apart too: so many opened at once, or one after the other, again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.figures import Figure, at_most, publish
from benchmarks.homes import stage
from benchmarks.pictures import photo
from benchmarks.serving import (
    FINE,
    HEADERS_END,
    HOST,
    LENGTH,
    REPLY_TIMEOUT_S,
    requests_of,
    service,
)
from benchmarks.slopes import lines_over

MODEL, PICTURES, SIDE = "tiny-vit", 16, 64
SAMPLES, SETTLING = 100, 4  # the heap fills over the first few thousand answers
PROCESSES, CONNECTIONS, TIMES = 2, 8, 50
SERVING = re.compile(r'^adaptsvc_serving_version\{pid="(\d+)"\}', re.MULTILINE)
MIB = 2**20


@dataclass(slots=True)
class Run:
    """What a run noted.

    Attributes:
        resident_mib: of each process at every sample.
        answered: requests that each had answered by then.
        failed: requests that got another answer.
    """

    resident_mib: dict[int, list[float]]
    answered: dict[int, list[int]]
    failed: int = 0
    counts: Counter[int] = field(default_factory=Counter)

    def note(self) -> None:
        """Take a sample."""
        for pid, values in self.resident_mib.items():
            values.append(psutil.Process(pid).memory_info().rss / MIB)
            self.answered[pid].append(self.counts[pid])


def serving(port: int) -> list[int]:
    """The processes that answer on a port, by their own word."""
    found = SERVING.findall(httpx.get(f"http://{HOST}:{port}/metrics", timeout=30).text)
    return sorted(int(pid) for pid in found)


def holders(pids: Sequence[int], port: int) -> dict[int, int]:
    """Which process has the connection that comes from a port of this machine."""
    return {
        each.raddr.port: pid
        for pid in pids
        for each in psutil.Process(pid).net_connections("tcp")
        if each.raddr and each.laddr.port == port
    }


class Connection:
    """A connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def open(cls, port: int) -> Connection:
        """To the service."""
        return cls(*await asyncio.open_connection(HOST, port))

    async def ask(self, request: bytes) -> bool:
        """Whether one request is answered with 200."""
        self.writer.write(request)
        return await asyncio.wait_for(is_answered(self._reader), REPLY_TIMEOUT_S)


async def is_answered(reader: asyncio.StreamReader) -> bool:
    """Read one response; whether its status is 200."""
    head = await reader.readuntil(HEADERS_END)
    fields = head.lower().partition(LENGTH)[2]
    await reader.readexactly(int(fields.partition(b"\r\n")[0]))
    return head.startswith(FINE)


async def load(port: int, asked: Sequence[bytes], requests: int, connections: int) -> Run:
    """So many requests over so many connections, each with one on its way."""
    pids = serving(port)
    run = Run({pid: [] for pid in pids}, {pid: [] for pid in pids})
    turn, each = iter(range(requests)), requests // SAMPLES
    with ExitStack() as stack:
        opened = [await Connection.open(port) for _ in range(connections)]
        for connection in opened:
            stack.enter_context(closing(connection.writer))
            run.failed += not await connection.ask(asked[0])  # it is accepted now
        held = holders(pids, port)

        async def client(connection: Connection) -> None:
            for number in turn:
                if await connection.ask(asked[number % len(asked)]):
                    run.counts[held[connection.port]] += 1
                else:
                    run.failed += 1
                if (number + 1) % each == 0:
                    run.note()

        await asyncio.gather(*map(client, opened))
    return run


async def spread(port: int, request: bytes, connections: int, *, at_once: bool) -> float:
    """The share of so many new connections that the process with the most of them has."""
    with ExitStack() as stack:
        if at_once:
            opened = await asyncio.gather(*(Connection.open(port) for _ in range(connections)))
            for connection in opened:
                stack.enter_context(closing(connection.writer))
            await asyncio.gather(*(connection.ask(request) for connection in opened))
        else:
            opened = []
            for _ in range(connections):
                opened.append(await Connection.open(port))
                stack.enter_context(closing(opened[-1].writer))
                await opened[-1].ask(request)
        held = holders(serving(port), port)
        return max(Counter(held[each.port] for each in opened).values()) / connections


def figures_of(run: Run, shares: dict[str, list[float]]) -> list[Figure]:
    """The lines of the table."""
    total = sum(run.counts.values())
    figures = [
        Figure("requests", [float(total)], ""),
        Figure("failed", [float(run.failed)], "", at_most(0)),
    ]
    for number, (pid, values) in enumerate(run.resident_mib.items(), start=1):
        name, steps = f"process {number}", [count / 1000 for count in run.answered[pid]]
        figures.append(Figure(f"{name}: of the requests", [run.counts[pid] / total], "x"))
        if run.counts[pid]:
            figures += lines_over(name, steps[SETTLING:], values[SETTLING:])
        else:
            figures += [Figure(f"{name}: first, last", [values[0], values[-1]], "MiB")]
    return figures + [
        Figure(f"share of the busier process, {said}", found, "x")
        for said, found in shares.items()
        if found
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--times", type=int, default=TIMES, help="connections are opened anew")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    if args.requests < SAMPLES:
        parser.error(f"--requests is {args.requests}; expected at least {SAMPLES}")
    images = [photo(seed, SIDE, SIDE) for seed in range(PICTURES)]
    shares: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        stage(Path(folder), MODEL)
        with service(Path(folder), workers=PROCESSES) as settings:
            port = settings.serve.port
            asked = requests_of(images, port)
            for said, at_once in (("opened at once", True), ("one after the other", False)):
                name = f"{args.connections} connections {said}"
                shares[name] = [
                    asyncio.run(spread(port, asked[0], args.connections, at_once=at_once))
                    for _ in range(args.times)
                ]
            run = asyncio.run(load(port, asked, args.requests, args.connections))
    title = f"{args.requests} requests over HTTP, {PROCESSES} processes, {MODEL}"
    publish(title, figures_of(run, shares), args.json)


if __name__ == "__main__":
    main()
