"""The application on a socket: listens, says where, and ends within seconds when told to."""

import asyncio
import contextlib
import logging
import os
import resource
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from pipeline.errors import InvalidSettings, LogUnavailable
from pipeline.gateway.app import make_app
from pipeline.gateway.certificates import ConnectorFactory
from pipeline.gateway.connections import ConnectionGuard, ConnectionLimits, protocol_class
from pipeline.gateway.smtp.listener import smtp_listener
from pipeline.gateway.state import GatewayState, make_gateway_state
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import FairThreads
from pipeline.runtime.private_files import make_private_folder, replace_file
from pipeline.runtime.sleep import sleep_unless

SHUTDOWN_GRACE_S: Final = 6
"""For requests in hand when told to stop; a batch has one append_timeout (5 s)."""
RESERVED_FILES: Final = 200
"""Open files that are no HTTP connections: SMTP, Kafka, Postgres, the spool."""
PORT_FILE: Final = "gateway.port"
MAX_THREADS: Final = min(32, (os.cpu_count() or 1) + 4)
"""As many as asyncio's own pool would have."""
log = logging.getLogger(__name__)


class GatewayServer(uvicorn.Server):
    """Uvicorn that leaves the signals to `bootstrap`, whose ``stop`` all roles obey."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(rt: Runtime, connector: ConnectorFactory) -> None:
    """Listen on the settings' host and port until ``rt.stop``.

    Raises BadSettings if that is taken, LogUnavailable if the producer gave up: whoever watches
    this process starts another.
    """
    asyncio.get_running_loop().set_default_executor(FairThreads(MAX_THREADS))
    world = make_gateway_state(rt, connector)
    server = GatewayServer(
        uvicorn.Config(
            make_app(world),
            http=protocol_class(_guard(rt, world)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # URLs carry tokens
            server_header=False,
            proxy_headers=False,  # whoever connects is whom /metrics is answered to
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
            timeout_keep_alive=rt.settings.http_idle_timeout,
        )
    )
    with _listen(rt) as listener:
        async with smtp_listener(rt.settings, world.inbound_mail, rt.stop):
            await _serve(rt, world, server, listener)
    if rt.log.is_dead and not rt.stop.is_set():
        raise LogUnavailable("the producer gave up, nothing could be taken any more")


def _guard(rt: Runtime, world: GatewayState) -> ConnectionGuard:
    """Return the limits of this gateway's connections: what is set, within what the system grants."""
    settings = rt.settings
    files = _files(settings.http_connections + RESERVED_FILES)
    most = max(min(settings.http_connections, files - RESERVED_FILES), 1)
    if most < settings.http_connections:
        log.warning("fewer connections than MAILFOLD_HTTP_CONNECTIONS: files=%d connections=%d", files, most)
    limits = ConnectionLimits(most, settings.http_connections_per_address, settings.http_head_timeout)
    return ConnectionGuard(limits, world.client_info, world.metrics.refused)


def _files(wanted: int) -> int:
    """Return how many files may be open, after raising that to ``wanted`` where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) or soft >= wanted:
        return wanted
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _serve(rt: Runtime, world: GatewayState, server: GatewayServer, listener: socket.socket) -> None:
    _announce(rt, listener.getsockname()[1])
    spooling = asyncio.create_task(world.spool.drain(rt.stop))
    noting = asyncio.create_task(world.event_buffer.run())
    stopping = asyncio.create_task(_stop(rt, server, noting))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        await world.event_buffer.finish(noting)
        await _ended(spooling)
        world.spool.close()
    if noting.done() and not noting.cancelled():
        noting.result()


async def _stop(rt: Runtime, server: GatewayServer, noting: "asyncio.Task[None]") -> None:
    while not rt.stop.is_set() and not rt.log.is_dead and not noting.done():
        await sleep_unless(rt.stop, 1)
    server.should_exit = True


async def _ended(spooling: "asyncio.Task[None]") -> None:
    # What it has in hand stays in its file until it is confirmed: nothing is lost by ending it.
    done, _ = await asyncio.wait([spooling], timeout=1)
    if not done:
        spooling.cancel()
        await asyncio.wait([spooling], timeout=1)


def _listen(rt: Runtime) -> socket.socket:
    settings = rt.settings
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidSettings(
            f"MAILFOLD_PORT: {settings.host}:{settings.port} can't be listened on: {error}"
        ) from error


def _announce(rt: Runtime, port: int) -> None:
    """The port is bound: who connects now waits a moment at most, nobody is refused."""
    make_private_folder(rt.settings.data_dir)
    replace_file(rt.settings.data_dir / PORT_FILE, f"{port}\n")
    log.info("gateway listens on http://%s:%d", rt.settings.host, port)
