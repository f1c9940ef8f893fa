"""Claims about what is told to be traced, and about tracing nothing."""

from __future__ import annotations

from typing import get_args

from adaptsvc import tracing
from adaptsvc.tracing import MOST_LINKS, OFF, SPANS, UNTRACED, Part, Root, Sources
from tests.adaptsvc.tracing_bench import CALLER, Kept


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
    assert said.split("-")[1] == f"{span.get_span_context().trace_id:032x}"
    assert tracing.headers() == {}
