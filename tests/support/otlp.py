"""Receive traces over HTTP as an OpenTelemetry collector does, and find out what is connected.

On a thread of its own: a role that ends waits for its last spans, and blocks the event loop of its test meanwhile.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as the collector got it; ids are hexadecimal."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    causes: frozenset[str]
    """The span ids of its parent and of its links."""
    attributes: dict[str, Any] = field(hash=False)


@dataclass
class Collector:
    """What was received."""

    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    port: int = 0
    answers: threading.Event = field(default_factory=threading.Event)
    """Set unless the collector takes requests and answers none."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def caused_by(self, span: ReceivedSpan) -> list[ReceivedSpan]:
        """Return a span and all spans that follow from it over parents and links."""
        reached = {span.span_id}
        found = [span]
        while more := [each for each in self.spans if each.span_id not in reached and each.causes & reached]:
            reached |= {each.span_id for each in more}
            found += more
        return found

    def add(self, body: bytes) -> None:
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_read(service, span) for span in scope.spans]


def _read(service: str, span: Any) -> ReceivedSpan:
    causes = {link.span_id.hex() for link in span.links} | ({span.parent_span_id.hex()} - {""})
    attributes = {each.key: _value(each.value) for each in span.attributes}
    kind = type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()
    ids = (span.trace_id.hex(), span.span_id.hex())
    return ReceivedSpan(service, span.name, kind, *ids, frozenset(causes), attributes)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@contextlib.contextmanager
def otlp_collector() -> Iterator[Collector]:
    """Listen on a free port until the end of the block."""
    collector = Collector()
    collector.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.answers.wait(60)
            assert self.path == "/v1/traces"
            collector.add(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            with contextlib.suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.answers.set()
            server.shutdown()
            thread.join()
