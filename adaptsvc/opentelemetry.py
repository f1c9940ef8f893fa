"""Spans by OpenTelemetry, sent to a collector by OTLP over HTTP. The one module that knows of it.

It knows nothing of what is traced. A span that ended waits in a queue of bounded length, from which one
thread of the SDK sends: whether the collector is there is nobody else's matter.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace import Span as Kept
from opentelemetry.trace import Tracer as Keeper
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from adaptsvc.tracing import (
    ERROR,
    NOTHING,
    TRACEPARENT,
    UNTRACED,
    Attributes,
    Part,
    Root,
    Span,
    Tracer,
    within,
)
from adaptsvc.tracing_section import TracingSettings

log = logging.getLogger(__name__)
PATH = "/v1/traces"
W3C = TraceContextTextMapPropagator()
KINDS = {
    "request": SpanKind.SERVER,
    "receive": SpanKind.CONSUMER,
    "round": SpanKind.INTERNAL,
    "replay": SpanKind.PRODUCER,
}
EXPORTER_LOG = "opentelemetry.exporter.otlp.proto.http.trace_exporter"  # a line for each failure
QUEUE_LOG = "opentelemetry.sdk._shared_internal"  # a line every 20 s while the queue is full


class KeptSpan(Span):
    """One that is kept.

    Args:
        keeper: makes its parts.
        span: it.
    """

    def __init__(self, keeper: Keeper, span: Kept) -> None:
        self._keeper = keeper
        self._span = span
        self._context = set_span_in_context(span, Context())
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()

    @property
    def traceparent(self) -> str:
        """See `Span`."""
        carrier: dict[str, str] = {}
        W3C.inject(carrier, self._context)
        return carrier[TRACEPARENT]

    def rename(self, name: str) -> None:
        """See `Span`."""
        self._span.update_name(name)

    def describe(self, attributes: Attributes) -> None:
        """See `Span`; of one that has ended no more is noted."""
        if self._span.is_recording():
            self._span.set_attributes(attributes)

    def fail(self, why: str) -> None:
        """See `Span`."""
        _fail(self._span, why)

    def measured(
        self,
        part: Part,
        started_s: float,
        ended_s: float,
        attributes: Attributes = NOTHING,
        failure: str = "",
    ) -> None:
        """See `Span`."""
        span = self._keeper.start_span(
            part, self._context, attributes=attributes, start_time=self._unix_ns(started_s)
        )
        if failure:
            _fail(span, failure)
        span.end(self._unix_ns(ended_s))

    @contextmanager
    def part(self, part: Part) -> Iterator[Span]:
        """See `Span`."""
        with _running(self._keeper, self._keeper.start_span(part, self._context)) as span:
            yield span

    def _unix_ns(self, clock_s: float) -> int:
        return self._epoch_ns + round(clock_s * 1e9)


class OpenTelemetryTracer(Tracer):
    """Keeps traces.

    Args:
        processor: is given every span that ended.
        service: the name of this process among others.
        sample_ratio: share of the traces that are kept, where whoever called does not say.
    """

    on = True

    def __init__(self, processor: SpanProcessor, service: str, *, sample_ratio: float) -> None:
        names = {
            "service.name": service,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
        sampler = ParentBased(TraceIdRatioBased(sample_ratio))
        self._provider = TracerProvider(sampler, Resource.create(names), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._keeper = self._provider.get_tracer("adaptsvc")

    @contextmanager
    def begin(
        self,
        root: Root,
        *,
        traceparent: str = "",
        links: Sequence[str] = (),
        attributes: Attributes = NOTHING,
    ) -> Iterator[Span]:
        """See `Tracer`."""
        span = self._keeper.start_span(
            root,
            _remote(traceparent),
            KINDS[root],
            attributes,
            [Link(_span_context(each)) for each in links],
        )
        if not span.is_recording():
            yield UNTRACED
            return
        with _running(self._keeper, span) as kept:
            yield kept

    def close(self, timeout_s: float) -> None:
        """See `Tracer`. The SDK would wait half a minute for a collector that does not answer."""
        thread = threading.Thread(target=self._provider.shutdown, name="flush-spans", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            log.warning("not all spans that waited were sent within %.1f s", timeout_s)


class Sending(SpanExporter):
    """Sends spans, and says once that they do not arrive, and once that they do again.

    Args:
        exporter: sends them.
        endpoint: where to, for the log.
    """

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`; it is called by one thread."""
        try:
            result = self._exporter.export(spans)
        except Exception as exc:  # of any transport: the batch is lost, the next one is tried
            log.debug("a batch of spans was lost: %s", exc)
            result = SpanExportResult.FAILURE
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            log.error("spans do not arrive at %s and are dropped; all else goes on", self._endpoint)
        elif self._failing and not failing:
            log.warning("spans arrive at %s again", self._endpoint)
        self._failing = failing
        return result

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self._exporter.shutdown()


class Once(logging.Filter):
    """Lets each message through once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        new = str(record.msg) not in self._said
        self._said.add(str(record.msg))
        return new


def sending_tracer(
    settings: TracingSettings, service: str, *, sample_ratio: float
) -> OpenTelemetryTracer:
    """A tracer that sends what it keeps to the collector of the settings.

    Args:
        settings: where to; the endpoint is not empty.
        service: the name of this process among others.
        sample_ratio: share of the traces that are kept, where whoever called does not say.
    """
    logging.getLogger(EXPORTER_LOG).setLevel(logging.CRITICAL)  # `Sending` says it
    logging.getLogger(QUEUE_LOG).addFilter(Once())
    exporter = OTLPSpanExporter(settings.endpoint + PATH, timeout=settings.timeout_s)
    processor = BatchSpanProcessor(
        Sending(exporter, settings.endpoint), max_queue_size=settings.queue_spans
    )
    return OpenTelemetryTracer(processor, service, sample_ratio=sample_ratio)


@contextmanager
def _running(keeper: Keeper, span: Kept) -> Iterator[Span]:
    """A span until what is inside is over; an exception is noted by its name, for messages say more."""
    try:
        with within(KeptSpan(keeper, span)) as kept:
            yield kept
    except BaseException as exc:
        _fail(span, type(exc).__name__)
        raise
    finally:
        span.end()


def _fail(span: Kept, why: str) -> None:
    span.set_status(Status(StatusCode.ERROR, why))
    span.set_attribute(ERROR, why)


def _remote(traceparent: str) -> Context:
    """What a trace continues; an empty context, and not the ambient one, where that is nothing."""
    return W3C.extract({TRACEPARENT: traceparent}, Context())


def _span_context(traceparent: str) -> SpanContext:
    return get_current_span(_remote(traceparent)).get_span_context()
