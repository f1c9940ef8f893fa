"""Whether the service leaks: its memory over many swaps of each kind and over many requests.

`python -m benchmarks.swap_memory`: for each way a version takes over (norms fed to the session that serves, a
second session for a delta, a whole model) RSS after every tenth of `--swaps` swaps through the service's own
`Live`, each in a fresh process without torch; and over `--requests` requests to the ASGI application with its
engine, from body to JSON but for the HTTP server (with it: `benchmarks.http_memory`). What the slopes are:
`benchmarks.slopes`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from adaptsvc import config
from adaptsvc.metrics import Observer
from adaptsvc.serving.answers import Classifier
from adaptsvc.serving.app import create_app
from adaptsvc.serving.service import engine_of, live_of, request_limits
from adaptsvc.serving.waiting import Desk
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.store import VersionStore
from benchmarks import memory
from benchmarks.figures import Figure, publish
from benchmarks.homes import stage
from benchmarks.pictures import photo
from benchmarks.slopes import lines
from benchmarks.swap import VERSIONS, Stand, pixels_of

EVERY, SAMPLES = 10, 100
WARMING = 4000  # the heap grows by 0.2 MiB over the first 2,000 answers, and no more over 18,000
AT_ONCE, PICTURES, SIDE = 8, 16, 64
REQUESTED = "tiny-vit"
SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/classify",
    "raw_path": b"/v1/classify",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"content-type", b"image/jpeg")],
    "server": ("127.0.0.1", 3000),
    "client": ("127.0.0.1", 1),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A way a version takes over, the model it is tried on, and swaps until nothing is new any more.

    CPython makes room for its table of interned strings, once, after some thousands: a step of 1.9 MiB.
    """

    said: str
    model: str
    settling: int
    whole: bool = False


KINDS = {
    "fed": Kind("norms fed, tiny ViT", "tiny-vit", 5000),
    "session": Kind("second session, tiny ResNet", "tiny-resnet", 5000),
    "whole": Kind("whole model, tiny ViT", "tiny-vit", 200, whole=True),
    "lite": Kind("second session, lite", "lite", 200),
}


def over_swaps(home: Path, settling: int, swaps: int) -> list[float]:
    """RSS in MiB after every so many swaps, the first after those that settle; a request after each swap."""
    stand = Stand(home, Observer())
    pixels = pixels_of(stand.predictor, 1)
    for _ in range(WARMING):
        stand.answer(pixels)
    found = []
    for number in range(-settling, swaps + 1):
        if number >= 0 and number % EVERY == 0:
            stand.live.poll()  # as the service does: freed pages go back at the look after a swap
            found.append(memory.resident_mib())
        stand.move()
        stand.live.poll()
        stand.answer(pixels)
    return found


def over_requests(home: Path, requests: int) -> list[float]:
    """RSS in MiB after warming, and then after every hundredth of so many requests to the application."""
    settings = config.read(home=home, serve={"workers": 1})
    observer = Observer()
    live = live_of(settings, VersionStore(settings.store), FilePointer(settings.pointer), observer)
    engine = engine_of(settings, live, observer)
    desk = Desk(engine, settings.serve.deadline_s, observer=observer)
    classifier, limits = Classifier(observer), request_limits(settings)
    app = create_app(live, desk=desk, classifier=classifier, limits=limits)
    images = [photo(seed, SIDE, SIDE) for seed in range(PICTURES)]
    each, found = math.ceil(requests / SAMPLES), []
    live.poll()
    engine.start()
    for _ in range(SAMPLES + 1):
        asyncio.run(ask(app, images, each))
        found.append(memory.resident_mib())
    engine.close(timeout_s=1)
    return found


async def ask(app: FastAPI, images: Sequence[bytes], requests: int) -> None:
    """So many requests straight to the ASGI application, a few at once."""
    turn = iter(range(requests))

    async def client() -> None:
        for number in turn:
            body = {"type": "http.request", "body": images[number % len(images)]}
            messages = [body]

            async def receive(messages: list[Any] = messages) -> Any:
                return messages.pop() if messages else await asyncio.Event().wait()

            async def send(message: Any) -> None:
                if message.get("status", 200) != 200:
                    raise SystemExit(f"a request failed: {message}")

            await app({**SCOPE}, receive, send)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


def measure_swaps(kind: Kind, swaps: int) -> list[Figure]:
    """One kind, in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        stage(Path(folder), kind.model, versions=VERSIONS, whole=kind.whole)
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            found = pool.submit(over_swaps, Path(folder), kind.settling, swaps).result()
    return lines(f"{kind.said}, {swaps} swaps", EVERY / 1000, found)


def measure_requests(requests: int) -> list[Figure]:
    """The application with its engine, in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        stage(Path(folder), REQUESTED)
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            found = pool.submit(over_requests, Path(folder), requests).result()
    return lines(f"{requests} requests, {REQUESTED}", requests / SAMPLES / 1000, found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap_memory", description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--swaps", type=int, default=200, help="of each kind")
    parser.add_argument("--requests", type=int, default=100_000, help="0 for none")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    figures = [figure for name in args.kinds for figure in measure_swaps(KINDS[name], args.swaps)]
    if args.requests:
        figures += measure_requests(args.requests)
    publish("memory over swaps and requests", figures, args.json)


if __name__ == "__main__":
    main()
