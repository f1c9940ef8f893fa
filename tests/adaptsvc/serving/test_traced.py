"""Claims about the spans of requests, over a real predictor, real threads and the real ASGI stack."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from adaptsvc.config import Settings
from adaptsvc.serving.batching import BatchLimits
from adaptsvc.serving.engine import EngineLimits
from adaptsvc.tracing import current
from tests.adaptsvc.serving.bench import RAW, Broken, Held, Stand, session_of
from tests.adaptsvc.tracing_bench import CALLER, STAGES, Kept, context_of, facts, start_of, trees

tiny = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
SECRET = "a-key-that-is-nobodys-business"


@contextmanager
def traced(settings: Settings, kept: Kept, **parts: object) -> Iterator[tuple[Stand, TestClient]]:
    stand = Stand(settings, tracer=kept.tracer, **parts)  # type: ignore[arg-type]
    with stand.client() as client:
        yield stand, client


def named(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    (found,) = (span for span in spans if span.name == name)
    return found


@tiny
def test_a_request_is_one_span_with_its_four_stages(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    kept = Kept()
    with traced(prepared, kept) as (_, client):
        client.post("/v1/classify", content=png(0), headers=RAW)
        spans = kept.spans(5)
    assert trees(spans) == [("POST /v1/classify", STAGES)]
    root = named(spans, "POST /v1/classify")
    assert (root.kind, root.parent, root.status.status_code) == (
        SpanKind.SERVER,
        None,
        StatusCode.UNSET,
    )
    assert facts(root, "request") == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "adaptsvc.version": 0,
    }
    decode = facts(named(spans, "decode"), "decode")
    assert (decode["adaptsvc.images"], decode["adaptsvc.unreadable_images"]) == (1, 0)
    assert facts(named(spans, "infer"), "infer") == {
        "adaptsvc.version": 0,
        "adaptsvc.batch_images": 1,
        "adaptsvc.batch_requests": 1,
    }
    assert facts(named(spans, "postprocess"), "postprocess") == {"adaptsvc.version": 0}


@tiny
def test_the_stages_lie_within_the_request_and_follow_one_another(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    kept = Kept()
    with traced(prepared, kept) as (_, client):
        client.post("/v1/classify", content=png(0), headers=RAW)
        root, *stages = kept.spans(5)
    slack_ns = 5_000_000  # two clocks are read one after the other
    assert root.end_time is not None
    assert start_of(root) - slack_ns <= start_of(stages[0])
    for earlier, later in itertools.pairwise(stages):
        assert earlier.end_time is not None
        assert earlier.end_time <= start_of(later) + 1000
    assert start_of(stages[-1]) <= root.end_time + slack_ns


@tiny
def test_the_trace_of_the_caller_goes_on(prepared: Settings, png: Callable[[int], bytes]) -> None:
    kept = Kept(sample_ratio=0.0)  # the caller decides
    with traced(prepared, kept) as (_, client):
        headers = {**RAW, "traceparent": CALLER}
        client.post("/v1/classify", content=png(0), headers=headers)
        spans = kept.spans(5)
    assert {f"{context_of(span).trace_id:032x}" for span in spans} == {"a" * 32}
    parent = named(spans, "POST /v1/classify").parent
    assert parent is not None
    assert f"{parent.span_id:016x}" == "b" * 16


@tiny
@pytest.mark.parametrize("traceparent", ["", "x", CALLER[:-2] + "00", "é" * 55, "0" * 10_000])
def test_a_request_that_is_not_sampled_is_answered_and_leaves_nothing(
    prepared: Settings, png: Callable[[int], bytes], traceparent: str
) -> None:
    kept = Kept(sample_ratio=0.0)
    with traced(prepared, kept) as (_, client):
        headers = {**RAW, "traceparent": traceparent.encode()}
        answer = client.post("/v1/classify", content=png(0), headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert kept.spans(0) == []


@tiny
def test_a_form_of_images_is_one_tree_that_counts_them(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    kept = Kept()
    files = [("images", (f"{k}.png", png(k), "image/png")) for k in range(3)]
    files[1] = ("images", ("bad.png", b"no image", "image/png"))
    with traced(prepared, kept) as (_, client):
        client.post("/v1/classify", files=files)
        spans = kept.spans(5)
    assert trees(spans) == [("POST /v1/classify", STAGES)]
    decode = facts(named(spans, "decode"), "decode")
    assert (decode["adaptsvc.images"], decode["adaptsvc.unreadable_images"]) == (3, 1)
    assert facts(named(spans, "infer"), "infer")["adaptsvc.batch_images"] == 2


@tiny
def test_requests_of_one_batch_have_the_inference_each_in_their_own_trace(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    kept = Kept()
    limits = EngineLimits(decoders=2, inferences=1, queue_images=64, batch=BatchLimits(8, 0.0))
    with traced(prepared, kept, limits=limits) as (stand, client), ThreadPoolExecutor(3) as pool:
        held = Held(session_of(stand))
        stand.use(held)

        def ask(seed: int) -> int:
            return client.post("/v1/classify", content=png(seed), headers=RAW).status_code

        first = pool.submit(ask, 0)
        assert held.entered.wait(20)
        others = [pool.submit(ask, seed) for seed in (1, 2)]
        while len(stand.engine._ready) < 2:
            threading.Event().wait(0.005)
        held.release.set()
        assert [each.result() for each in (first, *others)] == [200] * 3
        spans = kept.spans(15)
    shared = [span for span in spans if (span.attributes or {}).get("adaptsvc.batch_requests") == 2]
    assert len({context_of(span).trace_id for span in shared}) == 2
    lasted_ns = [(span.end_time or 0) - start_of(span) for span in shared]
    assert lasted_ns[0] == pytest.approx(lasted_ns[1], abs=2)
    assert [tree[1] for tree in trees(spans)] == [STAGES] * 3


@tiny
def test_what_is_no_image_is_the_callers_error(prepared: Settings) -> None:
    kept = Kept()
    with traced(prepared, kept) as (_, client):
        assert client.post("/v1/classify", content=b"text", headers=RAW).status_code == 400
        spans = kept.spans(5)
    root = named(spans, "POST /v1/classify")
    assert facts(root, "request")["http.response.status_code"] == 400
    assert root.status.status_code is StatusCode.UNSET
    failed = named(spans, "postprocess")
    assert facts(failed, "postprocess")["error.type"] == "RequestError"
    assert failed.status.status_code is StatusCode.ERROR


@tiny
@pytest.mark.filterwarnings("ignore")
def test_an_inference_that_fails_marks_its_span_and_the_request(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    kept = Kept()
    with traced(prepared, kept) as (stand, client):
        stand.use(Broken())
        assert client.post("/v1/classify", content=png(0), headers=RAW).status_code == 503
        spans = kept.spans(3)
    assert trees(spans) == [("POST /v1/classify", ["decode", "infer"])]
    assert facts(named(spans, "infer"), "infer") == {"error.type": "RuntimeError"}
    root = named(spans, "POST /v1/classify")
    assert root.status.status_code is StatusCode.ERROR
    assert facts(root, "request")["error.type"] == "503"


@tiny
def test_a_span_is_named_by_its_route_and_says_nothing_that_was_sent(prepared: Settings) -> None:
    kept = Kept()
    with traced(prepared, kept) as (_, client):
        client.get(f"/v1/versions/0?token={SECRET}", headers={"x-api-key": SECRET})
        client.get(f"/{SECRET}", headers={"authorization": f"Bearer {SECRET}"})
        client.request("BREW" + SECRET.upper(), "/v1/model")
        spans = kept.spans(3)
    assert [span.name for span in spans] == ["GET /v1/versions/{id}", "GET", "_OTHER /v1/model"]
    assert SECRET.lower() not in "".join(span.to_json() for span in spans).lower()


@tiny
def test_probes_have_no_span(prepared: Settings) -> None:
    kept = Kept()
    with traced(prepared, kept) as (_, client):
        assert client.get("/v2/health/live").status_code == 200
    assert kept.spans(0) == []


@tiny
def test_what_is_sampled_for_the_stream_belongs_to_the_request(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    kept, sampled = Kept(), list[str]()
    with traced(
        prepared, kept, sample=lambda _id, _data: sampled.append(current().traceparent)
    ) as (_, client):
        client.post("/v1/classify", content=png(0), headers=RAW)
        root = context_of(named(kept.spans(5), "POST /v1/classify"))
    (said,) = sampled
    assert said.split("-")[1:3] == [f"{root.trace_id:032x}", f"{root.span_id:016x}"]


@tiny
def test_where_nothing_is_traced_nothing_is_in_between(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    sampled = list[str]()
    stand = Stand(prepared, sample=lambda _id, _data: sampled.append(current().traceparent))
    with stand.client() as client:
        headers = {**RAW, "traceparent": CALLER}
        assert client.post("/v1/classify", content=png(0), headers=headers).status_code == 200
        layers = [str(each.cls) for each in stand.app().user_middleware]
    assert not [layer for layer in layers if "Traced" in layer]
    assert sampled == [""]
