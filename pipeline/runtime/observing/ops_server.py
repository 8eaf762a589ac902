"""Serve a role's `/metrics`, `/healthz` and `/readyz` on a port of its own; each role's process starts it first.

It runs on threads of its own, with the HTTP server of Python's library, which `prometheus_client` loads in any case:
while the event loop is blocked it still answers, and says so. Without a request it costs next to nothing. There is no
authentication: by default it listens on this machine only.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST

from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.runtime.observing.watchdog import watch_event_loop
from pipeline.settings import Settings

LOOP_TIMEOUT_S: Final = 5.0
"""Seconds for the event loop to answer: a check of Kafka and Postgres may take three."""
REQUEST_TIMEOUT_S: Final = 10.0
"""Seconds for each read and write of a connection."""
MAX_CONNECTIONS: Final = 8
"""Connections at once; a further one ends the oldest, so that clients that send nothing keep no probe out."""
EVICTION_TIMEOUT_S: Final = 1.0
BIND_RETRY_S: Final = 5.0
"""Seconds between attempts to listen on a port that is taken, as by the process that this one replaces."""
IDLE_WAIT_S: Final = 2.0
"""Seconds after which the waiting thread looks whether it must end."""

log = get_logger(__name__)

T = TypeVar("T")
Response = tuple[int, str, bytes]
"""Status, content type and body."""


class OpsServer:
    """The HTTP server of one role."""

    def __init__(self, health: RoleHealth, loop: asyncio.AbstractEventLoop) -> None:
        self._health = health
        self._loop = loop

    def respond(self, path: str) -> Response:
        """Return the response to a GET request; called on a thread of the server."""
        match path.partition("?")[0]:
            case "/healthz":
                return self._liveness()
            case "/readyz":
                return self._readiness()
            case "/metrics":
                return self._metrics()
            case _:
                return _json_response(404, {"error": "here are /metrics, /healthz and /readyz"})

    def _liveness(self) -> Response:
        if stalled := self._health.stalled_seconds():
            return _json_response(503, {"status": "event loop blocked", "seconds": round(stalled, 1)})
        return _json_response(200, {"status": "ok"})

    def _readiness(self) -> Response:
        try:
            problems = self._on_loop(self._health.find_problems())
        except TimeoutError:
            problems = {"event loop": f"no answer within {LOOP_TIMEOUT_S:.0f} s"}
        except Exception as error:
            problems = {"check": f"failed ({type(error).__name__})"}
        status = "unavailable" if problems else "ok"
        return _json_response(503 if problems else 200, {"status": status, "problems": problems})

    def _metrics(self) -> Response:
        try:
            self._on_loop(self._health.refresh_gauges())
        except Exception:
            # The last values are better than none: just now somebody wants to know why.
            self._health.metrics.ready.set(0)
            self._health.metrics.refresh_failures.inc()
        return 200, CONTENT_TYPE_LATEST, self._health.metrics.render()

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the role's event loop and return its result. Raise TimeoutError, and what it raises."""
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise
        try:
            return future.result(LOOP_TIMEOUT_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise


@contextlib.contextmanager
def observe_role(health: RoleHealth, settings: Settings) -> Iterator[None]:
    """Watch the running event loop and serve the role's endpoints until the end of the block."""
    with watch_event_loop(health.role) as watchdog:
        health.watch(watchdog)
        with serve_ops(health, settings.ops_host, settings.ops_port(health.role)):
            yield


@contextlib.contextmanager
def serve_ops(health: RoleHealth, host: str, port: int) -> Iterator[None]:
    """Serve the running event loop's role until the end of the block; not at all where ``host`` is empty.

    A taken port is no reason to stop working: it is logged and tried again.
    """
    if not host:
        yield
        return
    server = OpsServer(health, asyncio.get_running_loop())
    stop = threading.Event()
    threading.Thread(target=_listen_and_serve, args=(server, host, port, stop), name="ops", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _listen_and_serve(server: OpsServer, host: str, port: int, stop: threading.Event) -> None:
    is_logged = False
    while not stop.is_set():
        try:
            listener = _OpsListener(server, host, port)
        except OSError as error:
            if not is_logged:
                log.warning("ops port not free, retrying", host=host, port=port, error=str(error))
            is_logged = True
            stop.wait(BIND_RETRY_S)
            continue
        with listener:
            log.info("ops endpoints listen", host=host, port=listener.server_address[1])
            while not stop.is_set():
                listener.handle_request()


class _OpsListener(ThreadingHTTPServer):
    """The listening socket, with a thread per request and few of them at once."""

    daemon_threads = True
    timeout = IDLE_WAIT_S

    def __init__(self, server: OpsServer, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.ops = server
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[socket.socket, None] = {}
        """The open connections, oldest first."""
        super().__init__((host, port), _OpsRequestHandler)

    def server_bind(self) -> None:
        """Bind the socket, without the name lookup of HTTPServer, which may wait for a name server."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own; end the oldest one where too many are open."""
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError, StopIteration):
                next(iter(self._open)).shutdown(socket.SHUT_RDWR)
            if not self._free.acquire(timeout=EVICTION_TIMEOUT_S):
                self.shutdown_request(request)
                return
        self._open[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection on this thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that went away."""


class _OpsRequestHandler(BaseHTTPRequestHandler):
    """One request; its connection is closed after it."""

    timeout = REQUEST_TIMEOUT_S
    server: _OpsListener

    def do_GET(self) -> None:
        """Answer a GET request."""
        status, content_type, body = self.server.ops.respond(self.path)
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name in the library
        """Log nothing: probes come every few seconds."""


def _json_response(status: int, value: dict[str, Any]) -> Response:
    return status, "application/json", json.dumps(value).encode()
