"""A tracer that keeps spans in memory, and a collector that takes them by HTTP, for the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TypeAlias

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from adaptsvc.opentelemetry import OpenTelemetryTracer
from adaptsvc.tracing import SPANS, Part, Root

PATIENCE_S = 20.0
CALLER = f"00-{'a' * 32}-{'b' * 16}-01"
STAGES = ["decode", "queue", "infer", "postprocess"]
Tree: TypeAlias = tuple[str, list[str]]


class Kept:
    """Spans as they end."""

    def __init__(self, *, sample_ratio: float = 1.0) -> None:
        self._memory = InMemorySpanExporter()
        processor = SimpleSpanProcessor(self._memory)
        self.tracer = OpenTelemetryTracer(processor, "tests", sample_ratio=sample_ratio)

    def spans(self, count: int) -> list[ReadableSpan]:
        """So many, and no more so far; a request is answered before its last spans are made."""
        deadline = time.monotonic() + PATIENCE_S
        while len(found := self._memory.get_finished_spans()) < count:
            assert time.monotonic() < deadline, [span.name for span in found]
            time.sleep(0.005)
        assert len(found) == count, [span.name for span in found]
        return sorted(found, key=start_of)

    def forget(self) -> None:
        """Begin anew."""
        self._memory.clear()


def context_of(span: ReadableSpan) -> SpanContext:
    """Its ids."""
    found = span.get_span_context()
    assert found is not None
    return found


def start_of(span: ReadableSpan) -> int:
    """Nanoseconds."""
    assert span.start_time is not None
    return span.start_time


def trees(spans: list[ReadableSpan]) -> list[Tree]:
    """The roots among spans, each with the names of its children, by their starts."""
    children: dict[int, list[str]] = {}
    ids = {context_of(span).span_id for span in spans}
    roots = []
    for span in spans:
        if span.parent is not None and span.parent.span_id in ids:
            children.setdefault(span.parent.span_id, []).append(span.name)
        else:
            roots.append(span)
    return [(root.name, children.get(context_of(root).span_id, [])) for root in roots]


def facts(span: ReadableSpan, kind: Root | Part) -> dict[str, object]:
    """Its attributes, each of which the table of spans has to know."""
    found: dict[str, object] = dict(span.attributes or {})
    assert found.keys() <= set(SPANS[kind].attributes)
    return found


class Collector(HTTPServer):
    """Takes spans; `spans` are the names of those that came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.spans: list[str] = []
        self.services: set[str] = set()
        self.status = 200
        self.requests = 0

    @property
    def endpoint(self) -> str:
        """For the settings."""
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, body: bytes) -> None:
        """A request of OTLP."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for each in resource.resource.attributes:
                if each.key == "service.name":
                    self.services.add(each.value.string_value)
            for scope in resource.scope_spans:
                self.spans += [span.name for span in scope.spans]


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces" and self.server.status == 200:
            self.server.take(body)
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()
        self.server.requests += 1

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
