"""Trace emails from role to role: spans, and their W3C trace context in the headers of records on the log.

A span stands for one HTTP request, one batch of records, or one call of another server. A span per record would be more
than any collector takes. Each record of a traced email carries the context of the span that wrote it in the header
`traceparent`; the span of the batch in which it is read next has that span as its parent, or as a link where records of
several come together. Jobs carry the context in a column.

Whether an email is traced is decided once, where it comes in. Records of the others have no header, so that they cost
nothing on their way.

Tracing is off by default. A :class:`Tracer` as it is here does nothing; `otlp_tracer` has the one that exports, and
`role_tracing` imports it only where the setting is on.
"""

import contextlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Literal

from topics.record import EmailId

HEADER: Final = "traceparent"
"""Name of the W3C header, in HTTP requests as on the log."""
MAX_EMAIL_IDS: Final = 100
"""Email ids in an attribute of one span; a batch may have thousands."""

SpanKind = Literal["server", "consumer", "client", "internal"]
Attribute = str | int | float | bool | Sequence[str]
TracedKey = tuple[bytes, str]
"""A record's key and the trace context in its header."""
RecordHeaders = list[tuple[str, bytes]]
"""The headers of a record, as the Kafka clients take them."""
NO_HEADERS: Final[RecordHeaders] = []


class Span:
    """A span that records nothing; the base of those that do."""

    traceparent: str = ""
    """The context that records and calls carry on; empty where nothing is traced."""

    def set_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Add attributes; never an address or content."""


NO_SPAN: Final = Span()
_current_span: Final[ContextVar[Span]] = ContextVar("span", default=NO_SPAN)


class Tracer:
    """The tracer of a process that traces nothing."""

    is_on: bool = False

    def request_span(
        self, name: str, attributes: Mapping[str, Attribute], traceparent: str = ""
    ) -> AbstractContextManager[Span]:
        """Begin a span where an email comes in, and make it the current one until the end of the block.

        ``traceparent``: the context that the client has sent; a new trace begins without one.
        """
        return contextlib.nullcontext(NO_SPAN)

    def span(
        self,
        name: str,
        kind: SpanKind,
        contexts: Iterable[str],
        attributes: Mapping[str, Attribute],
        started_at_ns: int | None = None,
    ) -> AbstractContextManager[Span]:
        """Begin a span caused by those of ``contexts``, and make it the current one until the end of the block.

        Without a context nothing is recorded: none of the emails is traced. ``started_at_ns``: when it began, in
        nanoseconds since the Unix epoch; now, if None.
        """
        return contextlib.nullcontext(NO_SPAN)

    def traced_keys(self, records: Iterable[Any]) -> list[TracedKey]:
        """Return the keys and contexts of those records that are traced."""
        return []


NO_TRACER: Final = Tracer()


def current_span() -> Span:
    """Return the span in whose block the caller runs, or one that records nothing."""
    return _current_span.get()


@contextlib.contextmanager
def as_current(span: Span) -> Iterator[Span]:
    """Make this span the current one until the end of the block."""
    token = _current_span.set(span)
    try:
        yield span
    finally:
        _current_span.reset(token)


def traceparent_of(record: Any) -> str:
    """Return the trace context in a record's headers; "" if it has none."""
    for name, value in record.headers:
        if name == HEADER and value:
            return str(value, "ascii", "replace")
    return ""


def record_headers(traceparent: str) -> RecordHeaders:
    """Return the headers that carry a trace context, none where nothing is traced."""
    return [(HEADER, traceparent.encode())] if traceparent else NO_HEADERS


def batch_attributes(topic: str, email_ids: Collection[str]) -> dict[str, Attribute]:
    """Return the attributes of the span of a batch of records that were read from, or written to, this topic."""
    return {"messaging.system": "kafka", "messaging.destination.name": topic, **email_attributes(email_ids)}


def email_attributes(email_ids: Collection[str]) -> dict[str, Attribute]:
    """Return the number of traced emails of a span and the ids of the first of them."""
    return {"mailfold.emails": len(email_ids), "mailfold.email_ids": list(itertools.islice(email_ids, MAX_EMAIL_IDS))}


def email_ids_of(traced: Iterable[TracedKey]) -> set[EmailId]:
    """Return the ids of the emails whose records are traced; anybody may have written a record that is none of ours."""
    return {EmailId(str(key, "ascii", "replace")) for key, _ in traced}


def contexts_of(traced: Iterable[TracedKey]) -> list[str]:
    """Return the trace contexts of traced records."""
    return [context for _, context in traced]
