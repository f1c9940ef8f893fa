"""What is told to be traced: spans, each with a time and a few facts. It knows nothing of who keeps them.

`adaptsvc.opentelemetry` keeps them. Who begins a trace, the door to the application or the worker's loop, is
given a `Tracer`; what happens below asks for the span that is `current`. Where nothing is traced, that is one
which does nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeAlias

Value: TypeAlias = str | int | float | bool | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value]
Root: TypeAlias = Literal["request", "receive", "round", "replay"]
Part: TypeAlias = Literal[
    "decode",
    "queue",
    "infer",
    "postprocess",
    "adapt",
    "export",
    "parity",
    "embed",
    "calibrate",
    "guard",
    "publish",
    "promote",
]
NOTHING: Attributes = {}
TRACEPARENT = "traceparent"  # W3C's header of requests, and ours of messages
SAMPLED = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf]")
MOST_LINKS = 64
VERSION, IMAGES, ERROR = "adaptsvc.version", "adaptsvc.images", "error.type"


@dataclass(frozen=True, slots=True)
class Described:
    """A kind of span: below which other it is, what it measures, and the attributes it may have."""

    parent: Root | Literal[""]
    meaning: str
    attributes: tuple[str, ...]


SPANS: dict[Root | Part, Described] = {
    "request": Described(
        "",
        "One request to `/v1` or `/v2`, named by its method and route.",
        ("http.request.method", "http.route", "http.response.status_code", VERSION, ERROR),
    ),
    "decode": Described(
        "request",
        "Bytes to pixels, all images of the request.",
        (IMAGES, "adaptsvc.unreadable_images", "adaptsvc.waited_s", ERROR),
    ),
    "queue": Described("request", "From decoded to the batch's inference call.", ()),
    "infer": Described(
        "request",
        "The inference of the batch, which every request of it has as a span of its own.",
        (VERSION, "adaptsvc.batch_images", "adaptsvc.batch_requests", ERROR),
    ),
    "postprocess": Described("request", "Embeddings to the answer.", (VERSION, ERROR)),
    "receive": Described(
        "",
        "Messages into the window and the labels; linked to the traces they came from.",
        ("messaging.batch.message_count", "adaptsvc.dead_letters", ERROR),
    ),
    "round": Described(
        "",
        "One round; linked to the traces of the messages that came since the one before.",
        (
            "adaptsvc.round",
            "adaptsvc.round.kind",
            "adaptsvc.method",
            "adaptsvc.outcome",
            "adaptsvc.reasons",
            "adaptsvc.action",
            VERSION,
            "adaptsvc.parent_version",
            IMAGES,
            ERROR,
        ),
    ),
    "adapt": Described("round", "Learning: every step of the round.", (ERROR,)),
    "export": Described("round", "The candidate as a model of ONNX Runtime.", (ERROR,)),
    "parity": Described("round", "Its answers held against torch's.", (ERROR,)),
    "embed": Described("round", "Its answers for the window and held-out labels.", (ERROR,)),
    "calibrate": Described("round", "Its temperature.", (ERROR,)),
    "guard": Described("round", "Whether it may serve, on the window and on labels.", (ERROR,)),
    "publish": Described(
        "round", "Into the store, as a version or as a refusal.", (VERSION, ERROR)
    ),
    "promote": Described("round", "The pointer moved to it.", (VERSION, ERROR)),
    "replay": Described(
        "", "One run of `adaptsvc replay`.", ("messaging.batch.message_count", ERROR)
    ),
}


class Span:
    """One that nobody keeps."""

    @property
    def traceparent(self) -> str:
        """What continues the trace elsewhere; empty where nothing is kept."""
        return ""

    def rename(self, name: str) -> None:
        """Call it otherwise."""

    def describe(self, attributes: Attributes) -> None:
        """Note facts."""

    def fail(self, why: str) -> None:
        """Note that it failed, by a word of a closed set, as the name of an exception is."""

    def measured(
        self,
        part: Part,
        started_s: float,
        ended_s: float,
        attributes: Attributes = NOTHING,
        failure: str = "",
    ) -> None:
        """Note a part that is over, by the clock of `time.perf_counter`. Any thread may."""

    def part(self, part: Part) -> AbstractContextManager[Span]:
        """Note a part while it runs, an exception as its failure; it is `current` meanwhile."""
        return nullcontext(self)


class Tracer:
    """Begins traces; of this one's nothing is kept."""

    on = False

    def begin(
        self,
        root: Root,
        *,
        traceparent: str = "",
        links: Sequence[str] = (),
        attributes: Attributes = NOTHING,
    ) -> AbstractContextManager[Span]:
        """A trace while its root runs, an exception as its failure; it is `current` meanwhile.

        Args:
            root: what it is.
            traceparent: of a trace that it continues; what is none begins a new one.
            links: the same of traces that led to it.
            attributes: what is known by now.
        """
        return nullcontext(UNTRACED)

    def close(self, timeout_s: float) -> None:
        """Send what waits, give up what is left after the time; harmless twice."""


UNTRACED = Span()
OFF = Tracer()
_current: ContextVar[Span] = ContextVar("adaptsvc_span", default=UNTRACED)


def current() -> Span:
    """The span that what runs here belongs to."""
    return _current.get()


@contextmanager
def within(span: Span) -> Iterator[Span]:
    """Have a span be `current`."""
    token = _current.set(span)
    try:
        yield span
    finally:
        _current.reset(token)


def headers() -> dict[str, bytes]:
    """What a message that is sent here has among its headers; nothing where nothing is traced."""
    traceparent = current().traceparent
    return {TRACEPARENT: traceparent.encode()} if traceparent else {}


class Sources:
    """The traces that messages came from: each once, the newest so many.

    Example:
        >>> sources, known = Sources(), f"00-{'a' * 32}-{'b' * 16}-01"
        >>> sources.add([{"traceparent": known.encode()}, {}, {"traceparent": b"?"}] * 2)
        ('00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01',)
        >>> sources.known == (known,)
        True
    """

    def __init__(self) -> None:
        self._known: deque[str] = deque(maxlen=MOST_LINKS)

    def add(self, messages: Iterable[Mapping[str, bytes]]) -> tuple[str, ...]:
        """Note the headers of messages; the traces among them, those alone that somebody keeps."""
        said = (each.get(TRACEPARENT, b"").decode("latin-1") for each in messages)
        found = tuple(dict.fromkeys(each for each in said if SAMPLED.fullmatch(each)))[-MOST_LINKS:]
        self._known.extend(each for each in found if each not in self._known)
        return found

    @property
    def known(self) -> tuple[str, ...]:
        """What was noted since `forget`."""
        return tuple(self._known)

    def forget(self) -> None:
        """Begin anew."""
        self._known.clear()
