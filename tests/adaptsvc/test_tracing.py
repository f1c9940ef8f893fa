"""Claims about what is told to be traced, and about tracing nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from adaptsvc import tracing
from adaptsvc.metrics import Observer
from adaptsvc.replaying import traced
from adaptsvc.serving.feedback import LabelDesk
from adaptsvc.serving.sampling import Sampler, SamplingLimits
from adaptsvc.serving.schemas import Feedback
from adaptsvc.tracing import MOST_LINKS, OFF, SPANS, UNTRACED, Part, Root, Sources
from streams.log import MemoryLog
from streams.message import NewMessage, TopicPartition
from streams.topics import load_topics
from tests.adaptsvc.tracing_bench import CALLER, Kept, context_of


def test_every_span_there_is_is_described() -> None:
    assert SPANS.keys() == {*get_args(Root), *get_args(Part)}


def test_a_tracer_that_is_off_gives_the_one_span_that_does_nothing() -> None:
    with OFF.begin("round", traceparent=CALLER) as span, span.part("adapt") as part:
        assert span is part is UNTRACED
        assert tracing.headers() == {}
    assert not OFF.on


def test_links_are_each_once_and_bounded() -> None:
    sources = Sources()
    said = [{"traceparent": f"00-{k:032x}-{'b' * 16}-01".encode()} for k in range(1, 200)]
    assert len(sources.add([*said, *said])) == MOST_LINKS
    assert sources.known[-1].startswith(f"00-{199:032x}")
    assert len(sources.known) == MOST_LINKS
    sources.forget()
    assert sources.known == ()


def test_what_a_message_carries_continues_the_span_it_was_sent_in() -> None:
    kept = Kept()
    with kept.tracer.begin("replay"):
        said = tracing.headers()["traceparent"].decode()
    (span,) = kept.spans(1)
    assert said.split("-")[1] == f"{context_of(span).trace_id:032x}"
    assert tracing.headers() == {}


class Lasting(MemoryLog):
    def close(self) -> None:
        """It is read after whoever writes has let go of it."""


def traces_in(log: MemoryLog, topic: str) -> set[str]:
    """The trace ids that the messages of a topic carry."""
    partitions = range(load_topics().spec(topic).partitions)
    found = [m for p in partitions for m in log.read(TopicPartition(topic, p), offset=0, limit=10)]
    assert found
    return {message.headers["traceparent"].decode().split("-")[1] for message in found}


def test_what_a_request_sends_to_the_stream_carries_its_trace(png: Callable[[int], bytes]) -> None:
    kept, log = Kept(), Lasting(load_topics())
    sampler = Sampler(lambda: log, SamplingLimits(1.0, 100.0, 8, 2**20), Observer())
    sampler.start()
    with kept.tracer.begin("request", traceparent=CALLER):
        sampler.offer("an-image", png(0))
        LabelDesk(lambda: log).take(Feedback(image_id="an-image", label="cat"), ["cat"])
    sampler.close(20.0)
    assert traces_in(log, "images.unlabeled") == traces_in(log, "images.labeled") == {"a" * 32}


def test_what_is_replayed_carries_the_trace_of_the_replay_and_else_its_own() -> None:
    kept, message = Kept(), NewMessage("k", b"v", {"source": b"s", "traceparent": b"earlier"})
    assert traced(message) is message
    with kept.tracer.begin("replay"):
        sent = traced(message).headers
    (span,) = kept.spans(1)
    assert sent["source"] == b"s"
    assert sent["traceparent"].decode().split("-")[1] == f"{context_of(span).trace_id:032x}"
