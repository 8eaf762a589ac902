"""HTTP connections with limits on size, time and number; `server.py` gives the protocol class to uvicorn.

Uvicorn's own protocol limits neither the size of a request's head nor its time. Here a connection is either waiting
(for a request, or for the rest of its head or body) or working. One that waits too long is closed. When the maximum
number is reached, a new connection replaces the one that has waited longest: slow clients displace only each other.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec
import prometheus_client
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pipeline.gateway.client_info import ClientInfoReader, site_of
from pipeline.gateway.headers import RETRY_SOON, SECURITY_HEADERS
from pipeline.runtime.observing.logs import get_logger

MAX_REQUEST_LINE_BYTES: Final = 32_768
"""More than servers usually accept, because our links contain their target in the path."""
MAX_HEAD_BYTES: Final = 65_536
"""Bytes of request line and headers; also of a chunked body's trailers, and of its framing between two pieces."""
MAX_HEADERS: Final = 128
MAX_PIPELINED_REQUESTS: Final = 32
"""Requests that a client may send on one connection before the first is answered."""
WRITE_TIMEOUT_S: Final = 60.0
"""Seconds within which a client must read some of an answer that is ready to be sent."""
UNREAD_BODY_TIMEOUT_S: Final = 5.0
"""Seconds in which the rest of a body may arrive after its request was answered."""
DISCARD_TIMEOUT_S: Final = 1.0
MAX_DISCARDED_BYTES: Final = 4_000_000
"""Bytes read from a refused client before closing: closing at once would reset the connection and lose the answer."""
WARNING_INTERVAL_S: Final = 60.0
log = get_logger(__name__)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on one gateway's connections."""

    max_connections: int
    max_per_address: int
    head_timeout_s: float


class ConnectionGuard:
    """Counts one gateway's connections and knows which of them wait."""

    def __init__(self, limits: ConnectionLimits, clients: ClientInfoReader, refused: prometheus_client.Counter) -> None:
        self.limits = limits
        self.client_info = clients
        self._refused = refused
        self._waiting: dict[LimitedHttpProtocol, None] = {}
        self._by_address: Counter[str] = Counter()
        self._open = 0
        self._warned_at = -WARNING_INTERVAL_S

    def refuse(self, why: str) -> None:
        """Count a refusal; warn about an address at its limit, because it may be a proxy missing from the settings."""
        self._refused.labels(why).inc()
        if why == "address" and time.monotonic() - self._warned_at >= WARNING_INTERVAL_S:
            self._warned_at = time.monotonic()
            log.warning(
                "address refused, at its limit; if it is a proxy, MAILFOLD_TRUSTED_PROXIES must name it",
                limit=self.limits.max_per_address,
            )

    def admit(self, address: str) -> str:
        """Admit and count a connection, and return ""; otherwise return the reason to refuse it."""
        if address and self._by_address[address] >= self.limits.max_per_address:
            return "address"
        if self._open >= self.limits.max_connections and not self._evict():
            return "connections"
        self._open += 1
        self.claim(address)
        return ""

    def leave(self, address: str) -> None:
        """Count an admitted connection out."""
        self._open -= 1
        self.release(address)

    def claim(self, address: str) -> None:
        """Count one more connection or request of an address; an empty address is not counted."""
        if address:
            self._by_address[address] += 1

    def release(self, address: str) -> None:
        """Count one connection or request less of an address."""
        if address:
            self._by_address[address] -= 1
            if self._by_address[address] <= 0:
                del self._by_address[address]

    def is_full(self, address: str) -> bool:
        """Return whether an address has reached its limit of connections and requests."""
        return bool(address) and self._by_address[address] >= self.limits.max_per_address

    def mark_waiting(self, connection: "LimitedHttpProtocol") -> None:
        """Mark a connection as waiting from now on: for a request, or for the rest of one."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def mark_working(self, connection: "LimitedHttpProtocol") -> None:
        """Mark a connection as not waiting: it has received a whole request, or it is closed."""
        self._waiting.pop(connection, None)

    def _evict(self) -> bool:
        """Close the connection that has waited longest; return whether there was one."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self.refuse("evicted")
        oldest.close_waiting()
        return True


class _RequestHeadRefused(Exception):
    """A request whose head exceeds a limit; ``why`` is the reason that the metrics count."""

    def __init__(self, status: int, error: str, why: str) -> None:
        super().__init__(error)
        self.status = status
        self.why = why


class LimitedHttpProtocol(HttpToolsProtocol):
    """An HTTP connection that ends when it exceeds a limit."""

    guard: ClassVar[ConnectionGuard]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._address: str | None = None
        """The client's address; empty if the peer is a trusted proxy, None before the connection is admitted."""
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        """The next request's head is incomplete, or has not begun."""
        self._is_message_open = False
        """A request has begun, and its last byte has not arrived."""
        self._silent_bytes = 0
        """Bytes fed to the parser since its last callback."""
        self._head_bytes = 0
        self._refusal: _RequestHeadRefused | None = None
        self._discarded: int | None = None
        """Bytes discarded since a request was refused; None if none was."""

    # ------------------------------------------------------------------ connection
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or answer 503 and close it."""
        super().connection_made(transport)
        peer = self.client[0] if self.client else ""
        address = "" if self.guard.client_info.is_trusted(peer) else site_of(peer)
        if why := self.guard.admit(address):
            self.guard.refuse(why)
            transport.write(_answer(503, "too many connections; try again"))
            transport.close()
            self._start(UNREAD_BODY_TIMEOUT_S, transport.abort)
            return
        self._address = address
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and count the connection out."""
        self._stop(self._timer)
        self._stop(self._write_timer)
        self.guard.mark_working(self)
        if self._address is not None:
            self.guard.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    def close_waiting(self) -> None:
        """Close a connection that waits, to make room for another."""
        if self._address is not None:
            self.guard.leave(self._address)
            self._address = None
        self.guard.mark_working(self)
        is_answered = self.cycle is not None and self.cycle.response_started and not self._in_head
        if self._is_message_open and self._discarded is None and not is_answered:
            self.transport.write(_answer(408, "the request did not come in time"))
            self.transport.close()
            self._start(UNREAD_BODY_TIMEOUT_S, self.transport.abort)
        else:
            self.transport.abort()

    # ------------------------------------------------------------------ reading
    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse a header, trailer or chunk size that does not end."""
        if self.transport.is_closing():
            return
        if self._discarded is not None:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES:
                self.transport.abort()
            return
        if not self._in_head and not self._is_message_open and self._is_idle():
            self._in_head = True
            self._await_head()
        self._silent_bytes += len(data)
        super().data_received(data)
        if self._silent_bytes > MAX_HEAD_BYTES:
            # The parser calls back about a header, a trailer or a chunk's size only when it has seen its end.
            self._refuse(431, "headers that are too large", "head")

    def on_message_begin(self) -> None:
        """Reset what is counted per request."""
        super().on_message_begin()
        self._in_head = self._is_message_open = True
        self._head_bytes = self._silent_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Receive a part of the request line."""
        super().on_url(url)
        self._silent_bytes = 0
        self._head_bytes += len(url)
        if len(self.url) > MAX_REQUEST_LINE_BYTES:
            self._fail(_RequestHeadRefused(414, "the request line is too long", "head"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header, or a trailer after a chunked body."""
        super().on_header(name, value)
        self._silent_bytes = 0
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._fail(_RequestHeadRefused(431, "headers that are too large or too many", "head"))

    def on_headers_complete(self) -> None:
        """Start the request, whose head is complete."""
        self._in_head = False
        self._silent_bytes = 0
        self._stop(self._timer)
        self.guard.mark_waiting(self)
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED_REQUESTS:
            self._fail(_RequestHeadRefused(503, "too many requests at once on one connection", "head"))

    def on_body(self, body: bytes) -> None:
        """Receive a piece of a body; the connection's waiting time starts again."""
        self._silent_bytes = 0
        self.guard.mark_waiting(self)
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer a parser error: with our refusal if that caused it, else with 400."""
        if self._refusal is not None:
            self._refuse(self._refusal.status, str(self._refusal), self._refusal.why)
        elif self._discarded is None and not self.transport.is_closing():
            super().send_400_response(msg)

    # ------------------------------------------------------------------ answering
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start a request; behind a trusted proxy only if the address it names is below its limit."""
        if self._address != "":
            super()._start_asgi_task(cycle, app)
            return
        address = self.guard.client_info.site(cycle.scope)
        if self.guard.is_full(address):
            self.guard.refuse("address")
            super()._start_asgi_task(cycle, _answer_too_many_requests)
            return

        async def counted_app(*asgi_args: Any) -> None:
            self.guard.claim(address)
            try:
                await app(*asgi_args)
            finally:
                self.guard.release(address)

        super()._start_asgi_task(cycle, counted_app)

    def on_response_complete(self) -> None:
        """Wait for the next request; the rest of a body that is still arriving has limited time."""
        super().on_response_complete()
        if self.transport.is_closing() or self._discarded is not None or not self._is_idle():
            return
        if self._in_head:
            # The next request has begun already.
            self._await_head()
            return
        self.guard.mark_waiting(self)
        if self._is_message_open:
            self._start(UNREAD_BODY_TIMEOUT_S, self.transport.close)

    def on_message_complete(self) -> None:
        """Mark the connection as working, or as idle if the request was answered before its last byte arrived."""
        super().on_message_complete()
        self._silent_bytes = 0
        self._is_message_open = False
        if not self._is_idle():
            self.guard.mark_working(self)
        elif not self.transport.is_closing():
            # Uvicorn stopped its keep-alive timer when the last bytes arrived.
            self._start(self.timeout_keep_alive, self.transport.close)

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._end_unread)

    def resume_writing(self) -> None:
        """Stop the time limit of a client that reads again."""
        self._stop(self._write_timer)
        super().resume_writing()

    # ------------------------------------------------------------------ limits
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self.guard.mark_waiting(self)
        self._start(self.guard.limits.head_timeout_s, self._end_late_head)

    def _end_late_head(self) -> None:
        if self._is_message_open:
            self._refuse(408, "the request did not come in time", "slow")
        else:
            # No request has begun, so none is answered: browsers open connections in advance.
            self.transport.close()

    def _end_unread(self) -> None:
        self.guard.refuse("slow")
        self.transport.abort()

    def _fail(self, refusal: _RequestHeadRefused) -> None:
        """Raise a refusal inside a parser callback; the parser's error handling then calls `send_400_response`."""
        self._refusal = refusal
        raise refusal

    def _refuse(self, status: int, error: str, why: str) -> None:
        """Answer the request, discard what still arrives for a moment, and close the connection."""
        if self._discarded is not None or self.transport.is_closing():
            return
        self.guard.refuse(why)
        self._discarded = 0
        if self.pipeline or (self._in_head and not self._is_idle()):
            # Earlier requests are not answered yet, and the client would take this answer for the first of theirs.
            self.cycle.disconnected = True
            self.transport.close()
            return
        # A client that already receives an answer would read a second one as a part of it.
        if self._is_idle() or not self.cycle.response_started:
            self.transport.write(_answer(status, error))
        if not self._is_idle():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.guard.mark_waiting(self)
        self._start(DISCARD_TIMEOUT_S, self.transport.abort)

    def _start(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop(self._timer)
        self._timer = self.loop.call_later(seconds, action)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def protocol_class(connections: ConnectionGuard) -> type[LimitedHttpProtocol]:
    """Return a protocol class bound to one gateway's guard, because uvicorn passes no further arguments to it."""

    class GatewayHttpProtocol(LimitedHttpProtocol):
        """A connection of this gateway."""

        guard = connections

    return GatewayHttpProtocol


def _answer(status: int, error: str) -> bytes:
    body = msgspec.json.encode({"error": error, "where": "HTTP"})
    headers = {
        **SECURITY_HEADERS,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    if status == 503:
        headers |= RETRY_SOON
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[status] + lines.encode("ascii") + b"\r\n" + body


async def _answer_too_many_requests(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer a request whose address has reached its limit."""
    body = msgspec.json.encode({"error": "too many requests at once; try again", "where": "HTTP"})
    headers = {**SECURITY_HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body)), **RETRY_SOON}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 503, "headers": raw})
    await send({"type": "http.response.body", "body": body})
