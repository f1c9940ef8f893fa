"""The command `replay`: its options, progress and exit code. It knows nothing of how it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import Progress

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.corruption import KINDS, Corruption, Kind
from adaptsvc.deadletters import send_back
from adaptsvc.errors import ConfigError
from adaptsvc.images import ImageLimits
from adaptsvc.replaying import (
    BUNDLED,
    Choice,
    Corrupter,
    Outgoing,
    gather,
    origin_of,
    traced,
)
from adaptsvc.sections import ImagesSettings
from adaptsvc.streaming import DEAD_LETTERS, IMAGES, open_log
from adaptsvc.tracers import REPLAY, open_tracer
from adaptsvc.tracing import Span
from adaptsvc.tracing_section import TracingSettings
from streams.log import Log
from streams.message import NewMessage
from streams.replay import send
from streams.topics import load_topics

FAILED = 1
DEADLETTER = "deadletter"
SEVERITY = 3
NAMED = 5  # unreadable images that are named
REPLAY_EXAMPLE = "Example: adaptsvc replay ./photos --rate 20 --shuffle --corruption gaussian_noise"

Source = Annotated[
    str, typer.Argument(help=f"A folder of images, a topic, or {BUNDLED!r}, a bundled data set.")
]
Back = Annotated[
    str, typer.Option("--from", help="`deadletter`: send dead letters back instead, each once.")
]
Topic = Annotated[str, typer.Option(help="Where to.")]
Rate = Annotated[float, typer.Option(min=0, help="Images a second; 0 does not wait.")]
Shuffle = Annotated[bool, typer.Option("--shuffle", help="In an order drawn from the seed.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the order and of the corruption.")]
Limit = Annotated[int, typer.Option(min=0, help="How many at most; 0 is all.")]
Offsets = Annotated[
    str, typer.Option(help="Of a topic: [PARTITION/][FIRST]:[END], comma list; default: all.")
]
CorruptionKind = Annotated[str, typer.Option(help=f"Of ImageNet-C: {', '.join(KINDS)}.")]
Severity = Annotated[
    int | None, typer.Option(min=1, max=5, help=f"Of the corruption; default: {SEVERITY}.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def replay(
    source: Source = "",
    back: Back = "",
    topic: Topic = IMAGES,
    rate: Rate = 0,
    shuffle: Shuffle = False,
    seed: Seed = 0,
    limit: Limit = 0,
    offsets: Offsets = "",
    corruption: CorruptionKind = "",
    severity: Severity = None,
    as_json: AsJson = False,
) -> None:
    """Send a folder of images, a data set or a topic to the stream; or dead letters back."""
    settings, topics = config.read(), load_topics()
    if back not in ("", DEADLETTER) or bool(source) == bool(back):
        raise ConfigError(
            f"got {source!r} and --from {back!r}; give a folder, a topic or a data set, or --from deadletter"
        )
    if back:
        _refuse_with_letters(topic, shuffle, limit, offsets, corruption)
        _send_letters_back(settings, rate or float("inf"), as_json=as_json)
        return
    if topic not in (targets := sorted(set(topics.specs) - {DEAD_LETTERS})):
        raise ConfigError(f"got --topic {topic!r}; expected one of {', '.join(targets)}")
    origin_of(source, topics)  # wrong use is said before a stream is opened or made
    corrupter = _corrupter(corruption, severity, seed, settings.images)
    started = time.monotonic()
    with closing(open_log(settings)) as log:
        outgoing = gather(Choice(source, offsets, shuffle, seed, limit), log, topics)
        messages = corrupter.corrupted(outgoing.messages) if corrupter else outgoing.messages
        with _traced(settings.tracing) as span:
            sent = _send(log, topic, rate, outgoing, map(traced, messages))
            span.describe({"messaging.batch.message_count": sent})
    unreadable = corrupter.unreadable if corrupter else []
    _report(
        {
            "sent": sent,
            "topic": topic,
            "source": source,
            "origin": outgoing.origin,
            "unreadable": unreadable,
            "seconds": round(time.monotonic() - started, 3),
        },
        as_json=as_json,
    )
    if unreadable:
        raise typer.Exit(FAILED)


def _refuse_with_letters(
    topic: str, shuffle: bool, limit: int, offsets: str, corruption: str
) -> None:
    """Options that mean nothing for dead letters: each goes back once, as it was, to where it came from."""
    given = {
        "--topic": topic != IMAGES,
        "--shuffle": shuffle,
        "--limit": bool(limit),
        "--offsets": bool(offsets),
        "--corruption": bool(corruption),
    }
    if found := [name for name, there in given.items() if there]:
        raise ConfigError(
            f"got {', '.join(found)} with --from deadletter, which sends every dead letter back to the topic "
            "it came from; leave them out"
        )


def _send_letters_back(settings: Settings, rate: float, *, as_json: bool) -> None:
    partitions = load_topics().spec(DEAD_LETTERS).partitions
    with closing(open_log(settings)) as log:
        done = send_back(log, settings.replayed, partitions=partitions, rate=rate)
    for reason in done.refused:
        typer.echo(reason, err=True)
    if as_json:
        typer.echo(json.dumps({"sent": done.sent, "refused": list(done.refused)}, indent=1))
    else:
        typer.echo(f"{done.sent} dead letters sent back, {len(done.refused)} cannot be")


def _corrupter(
    kind: str, severity: int | None, seed: int, images: ImagesSettings
) -> Corrupter | None:
    """What corrupts the images; None where they go as they are."""
    if not kind and severity is not None:
        raise ConfigError(
            f"got --severity {severity} without --corruption; name one of {', '.join(KINDS)}"
        )
    if not kind:
        return None
    chosen = Corruption(cast(Kind, kind), SEVERITY if severity is None else severity, seed)
    return Corrupter(chosen, ImageLimits.of(images))


def _send(
    log: Log, topic: str, rate: float, outgoing: Outgoing, messages: Iterator[NewMessage]
) -> int:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=outgoing.count)
        return send(
            log,
            topic,
            messages,
            rate=rate or float("inf"),
            sent=lambda count: progress.advance(task, count),
        )


@contextmanager
def _traced(settings: TracingSettings) -> Iterator[Span]:
    """A trace that every message of this run came from, sent when it is over."""
    tracer = open_tracer(settings, REPLAY)
    try:
        with tracer.begin("replay") as span:
            yield span
    finally:
        tracer.close(settings.flush_s)


def _report(figures: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
    else:
        typer.echo(f"{figures['sent']} images sent to {figures['topic']}")
    if unreadable := figures["unreadable"]:
        named = ", ".join(unreadable[:NAMED]) + (", ..." if len(unreadable) > NAMED else "")
        typer.echo(
            f"error: {len(unreadable)} cannot be read as images and were left out: {named}; "
            "without --corruption they are sent as they are",
            err=True,
        )
