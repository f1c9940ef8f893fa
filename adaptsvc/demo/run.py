"""Runs the demo: service and worker as real processes, images through the stream, answers over HTTP.

It knows nothing of plots or tables. Everything lies in one temporary folder; nothing outlives the run unless
`keep` is asked for.
"""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live as LiveDisplay
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.demo.data import CLASSES, Scene, load_scene
from adaptsvc.demo.measure import score
from adaptsvc.demo.report import Journal, write
from adaptsvc.demo.table import live_table, summary_table
from adaptsvc.demo.visitor import Visitor
from adaptsvc.errors import AdaptsvcError
from adaptsvc.processes import (
    Child,
    service_command,
    service_environment,
    settings_environment,
    stop_all,
    worker_command,
)
from adaptsvc.state import open_state
from adaptsvc.streaming import IMAGES, open_log
from adaptsvc.versions.pointer import Pointer
from streams.message import NewMessage

STREAMED, HELD_OUT = 1280, 1000
ROUND_IMAGES, WINDOW_IMAGES = 256, 512
STREAM_RATE, REQUEST_RATE = 16.0, 4.0
READY_TIMEOUT_S, LEARN_TIMEOUT_S = 120.0, 200.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What one run works with."""

    settings: Settings
    scene: Scene
    visitor: Visitor
    journal: Journal
    console: Console
    stop: threading.Event


class Interrupted(Exception):  # noqa: N818 - a signal, not an error
    """Ctrl-C."""


def run_demo(
    *, seed: int, out: Path, keep: bool, console: Console, stop: threading.Event
) -> dict[str, Any]:
    """The whole loop; the figures of the summary table.

    Args:
        seed: of the choice and order of images, and of learning.
        out: where the report goes.
        keep: leave service and worker running until `stop` is set.
        console: where tables go.
        stop: set to end early, leaving nothing running.

    Raises:
        AdaptsvcError: a process ended, or the service did not become ready.
    """
    scene = load_scene(seed, streamed=STREAMED, held_out=HELD_OUT)
    journal = Journal()
    with tempfile.TemporaryDirectory(prefix="adaptsvc-demo-", ignore_cleanup_errors=True) as home:
        overrides = overrides_of(Path(home), seed)
        settings = settings_of(overrides)
        with _processes(settings, settings_environment(overrides)) as children:
            visitor = Visitor(f"http://127.0.0.1:{settings.serve.port}", journal)
            stage = Stage(settings, scene, visitor, journal, console, stop)
            try:
                _wait_until_ready(stage, children)
                _measure(stage, "frozen zero-shot model")
                _stream_and_watch(stage, children)
                return _finish(stage, out, keep)
            except Interrupted:
                console.print("interrupted; service and worker are being stopped")
                return journal.summary() if journal.scores else {}
            finally:
                visitor.close()


def overrides_of(home: Path, seed: int) -> dict[str, str]:
    """What differs from the defaults, by dotted key, as the environment has it."""
    return {
        "home": str(home),
        "classes": json.dumps(CLASSES),
        "serve.port": str(_free_port()),
        "serve.poll_interval_s": "0.2",
        "serve.keys": "[]",  # its visitor has none
        "learn.round_images": str(ROUND_IMAGES),
        "learn.window_images": str(WINDOW_IMAGES),
        "learn.seed": str(seed),
    }


def settings_of(overrides: Mapping[str, str]) -> Settings:
    """The settings of a process whose environment has these overrides."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        target = nested.setdefault(section, {}) if section else nested
        target[name] = json.loads(value) if value.startswith("[") else value
    return config.read(**nested)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _processes(settings: Settings, environment: dict[str, str]) -> Iterator[list[Child]]:
    logs = settings.home
    service = Child.start(
        "service",
        service_command(settings),
        {**environment, **service_environment(settings)},
        logs / "service.log",
    )
    children = [service]
    try:
        children.append(Child.start("worker", worker_command(), environment, logs / "worker.log"))
        yield children
    finally:
        stop_all(children)


def _check(stage: Stage, children: list[Child]) -> None:
    if stage.stop.is_set():
        raise Interrupted
    for child in children:
        if not child.running:
            log = (stage.settings.home / f"{child.name}.log").read_text(errors="replace")
            raise AdaptsvcError(
                f"the {child.name} ended with status {child.process.returncode}; its last words:\n"
                + "\n".join(log.splitlines()[-15:])
            )


def _wait_until_ready(stage: Stage, children: list[Child]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    with stage.console.status(
        "starting service and worker, exporting the model to ONNX (about 30 s)"
    ):
        while not stage.visitor.ready():
            _check(stage, children)
            if time.monotonic() > deadline:
                raise AdaptsvcError(
                    f"the service was not ready within {READY_TIMEOUT_S:.0f} s; is the machine very busy?"
                )
            stage.stop.wait(0.5)


def _measure(stage: Stage, what: str) -> None:
    """Classify every held-out image by the version that serves, and note its figures."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stage.console, transient=True) as progress:
        task = progress.add_task(f"measuring the {what}", total=len(stage.scene.held_out))
        _record(stage, lambda done: progress.update(task, completed=done))


def _record(stage: Stage, advance: Callable[[int], None]) -> None:
    replies = stage.visitor.classify_all(stage.scene.held_out, advance)
    scores = score(stage.scene.held_out, replies)
    manifest = open_state(stage.settings).store.manifest(scores.version)
    stage.journal.learned[scores.version] = sum(manifest.offsets.values())
    stage.journal.scores.append(scores)


def _stream_and_watch(stage: Stage, children: list[Child]) -> None:
    """Feed the stream, classify one held-out image after another, measure every new version."""
    sent = _Feeder(stage)
    sent.start()
    deadline = time.monotonic() + LEARN_TIMEOUT_S
    pointer = open_state(stage.settings).pointer
    serving, turn = stage.journal.scores[0].version, 0
    table = live_table(stage.journal, serving, 0, STREAMED)
    terminal = stage.console.is_terminal  # elsewhere each new version is printed once
    with LiveDisplay(
        table, console=stage.console, auto_refresh=False, transient=not terminal
    ) as display:
        while time.monotonic() < deadline and not _learned_all(stage, pointer):
            _check(stage, children)
            reply = stage.visitor.classify_one(stage.scene.held_out[turn % HELD_OUT])
            turn += 1
            if reply is not None and reply.version > serving:
                serving = reply.version
                stage.visitor.note_swap()
                _record(stage, lambda _done: None)
                if not terminal:
                    stage.console.print(live_table(stage.journal, serving, sent.count, STREAMED))
            display.update(live_table(stage.journal, serving, sent.count, STREAMED), refresh=True)
            stage.stop.wait(1 / REQUEST_RATE)
    sent.join()


def _learned_all(stage: Stage, pointer: Pointer) -> bool:
    """Whether the version that serves was made after the last full round of the stream."""
    current = pointer.read().version
    read = stage.journal.learned.get(current, 0) if current is not None else 0
    return read >= STREAMED - STREAMED % ROUND_IMAGES


class _Feeder(threading.Thread):
    """Appends the stream's pictures at a steady rate."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(name="feeder", daemon=True)
        self._stage = stage
        self.count = 0

    def run(self) -> None:
        log = open_log(self._stage.settings)
        size = int(STREAM_RATE)
        pictures = self._stage.scene.stream
        for start in range(0, len(pictures), size):
            batch = pictures[start : start + size]
            log.append(IMAGES, [NewMessage(p.image_id, p.data) for p in batch])
            self.count += len(batch)
            if self._stage.stop.wait(size / STREAM_RATE):
                break
        log.close()


def _finish(stage: Stage, out: Path, keep: bool) -> dict[str, Any]:
    current = open_state(stage.settings).pointer.read().version
    if stage.journal.scores[-1].version != current:
        _measure(stage, "final version")
    summary = stage.journal.summary()
    report = write(stage.journal, out, summary)
    stage.console.print(summary_table(summary, str(report)))
    if keep:
        url = f"http://127.0.0.1:{stage.settings.serve.port}"
        stage.console.print(f"{url} goes on serving (home {stage.settings.home}); Ctrl-C ends it")
        stage.stop.wait()
    return summary
