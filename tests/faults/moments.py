"""A worker that dies, or stands still, at a named moment of its next round, or whose clock goes wrong.

It is `adaptsvc worker` itself, in a process forked from one that has loaded torch already. The functions that
mark its moments are wrapped; a file says at which of them it ends, another how far its clock is off. It knows
nothing of what is expected of it.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

FATE, CLOCK, OUTPUT = "fate", "clock", "worker.log"
End: TypeAlias = Literal["kill", "stop"]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a worker ends.

    Attributes:
        module: of the function.
        name: of the function, or of the method with its class.
        call: of how many calls from now.
        after: whether as it returns, rather than as it is called.
        since: counted only after that other moment, if one is named.
    """

    module: str
    name: str
    call: int = 1
    after: bool = False
    since: str = ""


# In the order that a round passes them.
MOMENTS = {
    "decoding": Moment("adaptsvc.source", "decode", call=5),
    "burying": Moment("adaptsvc.deadletters", "_append", after=True),
    "a step": Moment("adaptsvc.worker", "Worker._between_steps", call=2),
    "the export": Moment("adaptsvc.publishing", "build_encoder"),
    "the guard": Moment("adaptsvc.evidence", "Examiner.examine"),
    "publishing": Moment("adaptsvc.versions.store", "sync_tree"),
    "promoting": Moment("adaptsvc.versions.pointer", "FilePointer._write"),
    "the checkpoint": Moment("adaptsvc.checkpoint", "write_atomic", call=2, since="promoting"),
    "the commit": Moment("streams.consumer", "StoreConsumer.commit", since="promoting"),
}


def work(folder: Path, environment: Mapping[str, str]) -> None:
    """Be the worker of these settings; the target of a forked process."""
    with (folder / OUTPUT).open("ab", buffering=0) as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    os.environ.update(environment)
    passed: set[str] = set()
    for name, moment in MOMENTS.items():
        _mark(name, moment, folder / FATE, passed)
    _bend_clock(folder / CLOCK)
    from adaptsvc.cli import main

    sys.argv = ["adaptsvc", "worker"]
    main()


def _mark(name: str, moment: Moment, fate: Path, passed: set[str]) -> None:
    owner: Any = importlib.import_module(moment.module)
    *path, last = moment.name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, last)
    calls = 0

    def meet() -> None:
        nonlocal calls
        end, _, where = _read(fate).partition(" ")
        if where:
            passed.add(name)
        else:
            passed.clear()
        counts = where == name and (not moment.since or moment.since in passed)
        calls = calls + 1 if counts else 0
        if calls == moment.call:
            os.kill(os.getpid(), signal.SIGKILL if end == "kill" else signal.SIGSTOP)

    @functools.wraps(original)
    def marked(*args: Any, **kwargs: Any) -> Any:
        if not moment.after:
            meet()
        result = original(*args, **kwargs)
        if moment.after:
            meet()
        return result

    setattr(owner, last, marked)


def _bend_clock(file: Path) -> None:
    from streams.sqlite import SqliteLog

    right = time.time

    def bent() -> float:
        return right() + float(_read(file) or 0)

    time.time = bent
    defaults = SqliteLog.__init__.__kwdefaults__
    assert defaults is not None
    defaults["now"] = bent  # taken when the module was loaded


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
