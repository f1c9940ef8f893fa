"""Claims about the spans of the worker: from messages to a round to what serves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from adaptsvc.config import Settings
from adaptsvc.errors import NonFiniteStepError
from streams.message import NewMessage
from tests.adaptsvc.tracing_bench import CALLER, Kept, context_of, facts, trees
from tests.adaptsvc.worker_bench import VIT, Bench, drain, pictures, teaching

ROUND = ["adapt", "export", "parity", "embed", "calibrate", "guard", "publish", "promote"]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def bench(prepared: Settings, kept: Kept) -> Bench:
    return traced(prepared, kept)


def traced(settings: Settings, kept: Kept) -> Bench:
    bench = Bench(settings)
    bench.tracer = kept.tracer
    bench.worker = bench.start()
    return bench


def linked(span: ReadableSpan) -> set[str]:
    return {f"{link.context.trace_id:032x}" for link in span.links}


@VIT
def test_a_round_is_one_tree_linked_to_the_traces_of_its_messages(
    bench: Bench, kept: Kept, png: Callable[[int], bytes]
) -> None:
    sent = [
        NewMessage(name, data, {"traceparent": CALLER.encode()})
        for name, data in pictures(png, 16).items()
    ]
    bench.log.append("images.unlabeled", sent)
    drain(bench.worker)
    spans = kept.spans(10)
    assert trees(spans) == [("receive", []), ("round", ROUND)]
    received, done = spans[:2]
    assert facts(received, "receive") == {
        "messaging.batch.message_count": 16,
        "adaptsvc.dead_letters": 0,
    }
    assert linked(received) == linked(done) == {"a" * 32}
    assert len(done.links) == 1
    assert facts(done, "round") == {
        "adaptsvc.round": 1,
        "adaptsvc.round.kind": "images",
        "adaptsvc.method": "ueo",
        "adaptsvc.outcome": "promoted",
        "adaptsvc.reasons": (),
        "adaptsvc.action": "continue",
        "adaptsvc.version": 1,
        "adaptsvc.parent_version": 0,
        "adaptsvc.images": 16,
    }
    assert facts(spans[-1], "promote") == {"adaptsvc.version": 1}
    context = context_of(done)
    (event,) = bench.all_of("model.events")
    told = event.headers["traceparent"].decode()
    assert told.split("-")[1:3] == [f"{context.trace_id:032x}", f"{context.span_id:016x}"]


@VIT
def test_the_next_round_is_linked_to_its_own_messages_alone(
    bench: Bench, kept: Kept, png: Callable[[int], bytes]
) -> None:
    for digit, start in (("a", 0), ("c", 16)):
        named = {"traceparent": CALLER.replace("a", digit).encode()}
        images = pictures(png, 16, start).items()
        bench.log.append("images.unlabeled", [NewMessage(n, d, named) for n, d in images])
        drain(bench.worker)
    rounds = [span for span in kept.spans(20) if span.name == "round"]
    assert [linked(span) for span in rounds] == [{"a" * 32}, {"c" * 32}]


@VIT
def test_headers_that_name_no_trace_link_to_nothing(
    bench: Bench, kept: Kept, png: Callable[[int], bytes]
) -> None:
    said = [b"", b"\xff\xfe", CALLER[:-2].encode() + b"00", b"00-" + b"0" * 9000]
    images = pictures(png, 4).items()
    bench.log.append(
        "images.unlabeled",
        [NewMessage(n, d, {"traceparent": s}) for (n, d), s in zip(images, said, strict=True)],
    )
    drain(bench.worker)
    (received,) = kept.spans(1)
    assert received.links == ()


@VIT
def test_a_refused_round_says_why_and_is_no_error(
    prepared: Settings, kept: Kept, png: Callable[[int], bytes]
) -> None:
    strict = {"agreement": 1.0, "confident_share": 1.0, "marginal_entropy_kept": 1.0}
    guard = prepared.guard.model_copy(update=strict)
    learn = prepared.learn.model_copy(
        update={"objective": "entropy-minimisation", "learning_rate": 0.5, "passes": 4.0}
    )
    bench = traced(prepared.model_copy(update={"guard": guard, "learn": learn}), kept)
    bench.send(pictures(png, 16))
    drain(bench.worker)
    spans = kept.spans(9)
    assert trees(spans)[1] == ("round", ROUND[:-1])
    said = facts(spans[1], "round")
    assert said["adaptsvc.outcome"] == "refused"
    assert said["adaptsvc.reasons"]
    assert spans[1].status.status_code is StatusCode.UNSET


@VIT
def test_a_failed_round_marks_itself_and_the_part_that_failed(
    bench: Bench, kept: Kept, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_args: object, **_kwargs: object) -> None:
        raise NonFiniteStepError("NaN in step 1")

    monkeypatch.setattr("adaptsvc.adapt.adapter.Adapter.step", diverge)
    bench.send(pictures(png, 16))
    drain(bench.worker)
    _, done, adapt = kept.spans(3)
    assert facts(adapt, "adapt") == {"error.type": "NonFiniteStepError"}
    assert facts(done, "round")["adaptsvc.outcome"] == "failed"
    assert {done.status.status_code, adapt.status.status_code} == {StatusCode.ERROR}


@VIT
def test_a_round_on_labels_has_the_same_parts(prepared: Settings, kept: Kept) -> None:
    bench = traced(teaching(prepared), kept)
    bench.teach(16)
    drain(bench.worker)
    (done,) = (span for span in kept.spans(10) if span.name == "round")
    assert facts(done, "round")["adaptsvc.round.kind"] == "labels"
