"""Export spans by OpenTelemetry's SDK, as OTLP over HTTP; imported by `tracing` only where the setting is on.

The SDK reads its own variables: where to (`OTEL_EXPORTER_OTLP_…`), how many (`OTEL_TRACES_SAMPLER`), who
(`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`).
"""

import contextlib
import itertools
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from pipeline.runtime.observing import tracing
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.observing.tracing import Attribute, TracedKey, Tracer, as_current, traceparent_of
from pipeline.runtime.postgres.conninfo import program_version
from pipeline.settings import Settings

MAX_EXPORT_SPANS: Final = 512
"""Spans in one request to the collector."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds in which the last spans must be exported; a role has ten to end."""
MAX_LINKS: Final = 128
"""Links of one span; the SDK keeps no more either."""

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_KINDS: Final = {
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}

CountSpans = Callable[[str, int], None]
"""A function that counts spans by their result: exported, failed or dropped."""

logger = get_logger(__name__)


class OtlpSpan(tracing.Span):
    """A span of the SDK."""

    def __init__(self, span: Any) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = _traceparent(context) if context.trace_flags.sampled else ""

    def set_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Add attributes; never an address or content."""
        self._span.set_attributes(attributes)


class OtlpTracer(Tracer):
    """The tracer of one process."""

    is_on = True

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("mailfold", program_version())

    @contextlib.contextmanager
    def request_span(
        self, name: str, attributes: Mapping[str, Attribute], traceparent: str = ""
    ) -> Iterator[tracing.Span]:
        """Begin a span where an email comes in, as :meth:`Tracer.request_span` says."""
        parent = _parse(traceparent)
        context = Context() if parent is None else _with_parent(parent)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        with _running(span) as current:
            yield current

    @contextlib.contextmanager
    def span(
        self,
        name: str,
        kind: tracing.SpanKind,
        contexts: Iterable[str],
        attributes: Mapping[str, Attribute],
        started_at_ns: int | None = None,
    ) -> Iterator[tracing.Span]:
        """Begin a span caused by others, as :meth:`Tracer.span` says."""
        # Not all of a batch's: parsing ten thousand of them would block the event loop.
        distinct = itertools.islice(dict.fromkeys(contexts), MAX_LINKS + 1)
        causes = [cause for each in distinct if (cause := _parse(each)) is not None]
        if not causes:
            yield tracing.NO_SPAN
            return
        links = [Link(cause) for cause in causes[1 : MAX_LINKS + 1]]
        parent = _with_parent(causes[0])
        span = self._tracer.start_span(name, parent, _KINDS[kind], attributes, links, started_at_ns)
        with _running(span) as current:
            yield current

    def traced_keys(self, records: Iterable[Any]) -> list[TracedKey]:
        """Return the keys and contexts of those records that are traced."""
        return [(record.key or b"", context) for record in records if (context := traceparent_of(record))]


@contextlib.contextmanager
def _running(span: Any) -> Iterator[tracing.Span]:
    """Make the span the current one, and end it; an error is told by its type alone: its text may name an address."""
    try:
        with as_current(OtlpSpan(span)) as current:
            yield current
    except BaseException as error:
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _parse(traceparent: str) -> SpanContext | None:
    """Return the context that a header names; None for one that is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))
    return context if context.is_valid else None


def _with_parent(parent: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(parent), Context())


class SpanQueue(SpanProcessor):
    """A bounded queue of ended spans, and the thread that exports them.

    Unlike the SDK's own processor it counts what it drops, and its end waits for nobody longer than
    `CLOSE_TIMEOUT_S`. A collector that is slow or away costs spans, never time of the role.
    """

    def __init__(self, exporter: SpanExporter, max_spans: int, delay_s: float, count: CountSpans) -> None:
        self._exporter = exporter
        self._max_spans = max_spans
        self._delay_s = delay_s
        self._count = count
        self._queue: deque[ReadableSpan] = deque()
        self._taking = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._export_until_closed, name="export spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue an ended span, or drop it if the queue is full."""
        if not span.context.trace_flags.sampled:
            return
        if self._is_closing or len(self._queue) >= self._max_spans:
            self._count("dropped", 1)
            return
        self._queue.append(span)
        if len(self._queue) >= MAX_EXPORT_SPANS:
            self._wake.set()

    def shutdown(self) -> None:
        """Export what is queued, as far as the collector takes it in time; drop the rest."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        if left := self._take(self._max_spans):
            self._count("dropped", len(left))
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: only `shutdown` flushes."""
        return True

    def _take(self, max_spans: int) -> list[ReadableSpan]:
        """Remove the oldest spans from the queue and return them."""
        with self._taking:
            return [self._queue.popleft() for _ in range(min(max_spans, len(self._queue)))]

    def _export_until_closed(self) -> None:
        while not self._is_closing:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            self._export_queued()
        self._export_queued()

    def _export_queued(self) -> None:
        while spans := self._take(MAX_EXPORT_SPANS):
            try:
                is_exported = self._exporter.export(spans) is SpanExportResult.SUCCESS
            except Exception as error:
                logger.error("spans not exported", error=type(error).__name__)
                is_exported = False
            self._count("exported" if is_exported else "failed", len(spans))
            if is_exported == self._has_failed:
                self._has_failed = not is_exported
                if is_exported:
                    logger.info("spans are exported again")
                else:
                    logger.warning("spans not exported, the collector does not take them")


@contextlib.contextmanager
def open_otlp_tracer(settings: Settings, role: str, count: CountSpans) -> Iterator[Tracer]:
    """Yield a tracer that exports to the collector which the SDK's variables name."""
    # It logs each attempt; the queue logs when the collector goes and comes back.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    own = {"service.namespace": "mailfold", "service.name": f"mailfold-{role}", "service.version": program_version()}
    resource = Resource.create({**own, "mailfold.role": role}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    queue = SpanQueue(OTLPSpanExporter(), settings.trace_queue_spans, settings.trace_export_delay_ms / 1000, count)
    provider.add_span_processor(queue)
    try:
        yield OtlpTracer(provider)
    finally:
        queue.shutdown()
