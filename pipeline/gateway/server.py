"""The gateway's server: it listens for HTTP and SMTP, announces its port, and stops within seconds.

`main.py` calls :func:`serve`.
"""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from pipeline.errors import InvalidSettings
from pipeline.exports.runner import EXPIRING, ExportRunner
from pipeline.gateway.app import make_app
from pipeline.gateway.certificates import ConnectorFactory
from pipeline.gateway.connections import ConnectionGuard, ConnectionLimits, protocol_class
from pipeline.gateway.console.own_port import ConsolePort
from pipeline.gateway.smtp.listener import smtp_listener
from pipeline.gateway.state import GatewayState, make_gateway_state
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import FairThreads
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.postgres.retention import run_retention
from pipeline.runtime.private_files import make_private_folder, replace_file
from pipeline.runtime.sleep import sleep_unless
from pipeline.runtime.tasks import cancel_tasks
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS

SHUTDOWN_GRACE_S: Final = 6
"""Seconds that requests may take to end when the gateway stops; a batch may need one append_timeout (5 s)."""
RESERVED_FILES: Final = 200
"""Open files beside HTTP connections: SMTP, Kafka, Postgres, the spool."""
PORT_FILE: Final = "gateway.port"
MAX_THREADS: Final = min(32, (os.cpu_count() or 1) + 4)
"""The size of asyncio's own default pool."""
log = get_logger(__name__)


class GatewayServer(uvicorn.Server):
    """Uvicorn without signal handlers: `bootstrap` handles the signals of all roles and sets ``stop``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield


async def serve(rt: Runtime, connector: ConnectorFactory, standby: Pool | None, history_pool: Pool) -> None:
    """Listen on the settings' host and port until ``rt.stop`` is set.

    Raise InvalidSettings if the port is taken.
    """
    asyncio.get_running_loop().set_default_executor(FairThreads(MAX_THREADS))
    rt.log.require_topics(MESSAGE_CONTENTS, SEND_REQUESTS)
    state = make_gateway_state(rt, connector, standby, history_pool)
    app = make_app(state)
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_listen("MAILFOLD_PORT", rt.settings.host, rt.settings.port))]
        if rt.settings.console and rt.settings.console_port:
            host, port = rt.settings.console_host, rt.settings.console_port
            if port == listeners[0].getsockname()[1]:
                # Requests are told apart by the port alone, so that the API would be served nowhere.
                raise InvalidSettings("MAILFOLD_CONSOLE_PORT: it is the gateway's own port; give the console another")
            listeners.append(stack.enter_context(_listen("MAILFOLD_CONSOLE_PORT", host, port)))
            app = ConsolePort(app, port)
        server = _http_server(rt, state, app)
        async with smtp_listener(rt.settings, state.inbound_mail, rt.stop):
            await _serve(rt, state, server, listeners)


def _http_server(rt: Runtime, state: GatewayState, app: ASGIApp) -> GatewayServer:
    """Return the HTTP server of an application."""
    return GatewayServer(
        uvicorn.Config(
            app,
            http=protocol_class(_connection_guard(rt, state)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # URLs carry tokens
            server_header=False,
            proxy_headers=False,  # /metrics checks the address of the peer itself
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
            timeout_keep_alive=rt.settings.http_idle_timeout,
        )
    )


def _connection_guard(rt: Runtime, state: GatewayState) -> ConnectionGuard:
    """Return the limits on this gateway's connections: the settings', or fewer if the open-files limit is too low."""
    settings = rt.settings
    files = _raise_open_files_limit(settings.http_connections + RESERVED_FILES)
    max_connections = max(min(settings.http_connections, files - RESERVED_FILES), 1)
    if max_connections < settings.http_connections:
        log.warning("fewer connections than MAILFOLD_HTTP_CONNECTIONS", files=files, connections=max_connections)
    limits = ConnectionLimits(max_connections, settings.http_connections_per_address, settings.http_head_timeout)
    return ConnectionGuard(limits, state.client_info, state.metrics.refused)


def _raise_open_files_limit(wanted: int) -> int:
    """Raise this process's limit on open files to ``wanted``, as far as the system allows; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) or soft >= wanted:
        return wanted
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _serve(rt: Runtime, state: GatewayState, server: GatewayServer, listeners: list[socket.socket]) -> None:
    """Run the HTTP server and the tasks that write opens and clicks, until ``rt.stop`` is set or one of them ends.

    The first listener is the gateway's own, whose port is announced.
    """
    _announce(rt, listeners[0].getsockname()[1])
    spool_task = asyncio.create_task(state.spool.drain(rt.stop))
    buffer_task = asyncio.create_task(state.event_buffer.run())
    export_tasks = [
        asyncio.create_task(ExportRunner(rt, state.history.read).run()),
        asyncio.create_task(run_retention(rt, EXPIRING)),
    ]
    stop_task = asyncio.create_task(_stop_server(rt, server, buffer_task))
    try:
        await server.serve(sockets=listeners)
    finally:
        stop_task.cancel()
        await cancel_tasks(export_tasks)
        await state.event_buffer.finish(buffer_task)
        await _end_draining(spool_task)
        state.spool.close()
    if buffer_task.done() and not buffer_task.cancelled():
        buffer_task.result()


async def _stop_server(rt: Runtime, server: GatewayServer, buffer_task: "asyncio.Task[None]") -> None:
    """Stop the HTTP server once ``rt.stop`` is set or ``buffer_task`` ended."""
    while not rt.stop.is_set() and not buffer_task.done():
        await sleep_unless(rt.stop, 1)
    server.should_exit = True


async def _end_draining(spool_task: "asyncio.Task[None]") -> None:
    """Wait a second for the task that drains the spool, then cancel it."""
    # Nothing is lost by that: events stay in their file until the log has confirmed them.
    done, _ = await asyncio.wait([spool_task], timeout=1)
    if not done:
        spool_task.cancel()
        await asyncio.wait([spool_task], timeout=1)


def _listen(variable: str, host: str, port: int) -> socket.socket:
    """Return the bound socket. Raise InvalidSettings, which names the variable, if its address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidSettings(f"{variable}: {host}:{port} can't be listened on: {error}") from error


def _announce(rt: Runtime, port: int) -> None:
    """Write the port to its file and log it; the socket is bound by now, so connections are no longer refused."""
    make_private_folder(rt.settings.data_dir)
    replace_file(rt.settings.data_dir / PORT_FILE, f"{port}\n")
    log.info("gateway listens", url=f"http://{rt.settings.host}:{port}")
