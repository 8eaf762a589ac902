"""The application on a socket: listens, says where, and ends within seconds when told to."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from pipeline.bootstrap import Runtime
from pipeline.errors import BadSettings, LogUnavailable
from pipeline.gateway.app import make_app
from pipeline.gateway.visits import Connector
from pipeline.gateway.world import World, make_world
from pipeline.inbound.listener import listening
from pipeline.private_files import make_private_folder, replace_file

GRACE_S: Final = 6
"""For requests in hand when told to stop; a batch has one append_timeout (5 s)."""
PORT_FILE: Final = "gateway.port"
log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Uvicorn that leaves the signals to `bootstrap`, whose ``stop`` all roles obey."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(rt: Runtime, connector: Connector) -> None:
    """Listen on the settings' host and port until ``rt.stop``.

    Raises BadSettings if that is taken, LogUnavailable if the producer gave up: whoever watches
    this process starts another.
    """
    world = make_world(rt, connector)
    server = Server(
        uvicorn.Config(
            make_app(world),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # URLs carry tokens
            server_header=False,
            proxy_headers=False,  # whoever connects is whom /metrics is answered to
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=30,
        )
    )
    with _listen(rt) as listener:
        async with listening(rt.settings, world.mail, rt.stop):
            await _serve(rt, world, server, listener)
    if rt.log.dead and not rt.stop.is_set():
        raise LogUnavailable("the producer gave up, nothing could be taken any more")


async def _serve(rt: Runtime, world: World, server: Server, listener: socket.socket) -> None:
    _announce(rt, listener.getsockname()[1])
    spooling = asyncio.create_task(world.spool.drain(rt.stop))
    noting = asyncio.create_task(world.notes.run())
    stopping = asyncio.create_task(_stop(rt, server, noting))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        await world.notes.finish(noting)
        await _ended(spooling)
        world.spool.close()
    if noting.done() and not noting.cancelled():
        noting.result()


async def _stop(rt: Runtime, server: Server, noting: "asyncio.Task[None]") -> None:
    while not rt.stop.is_set() and not rt.log.dead and not noting.done():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(rt.stop.wait(), 1)
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
        raise BadSettings(f"MAILFOLD_PORT: {settings.host}:{settings.port} can't be listened on: {error}") from error


def _announce(rt: Runtime, port: int) -> None:
    """The port is bound: who connects now waits a moment at most, nobody is refused."""
    make_private_folder(rt.settings.data_dir)
    replace_file(rt.settings.data_dir / PORT_FILE, f"{port}\n")
    log.info("gateway listens on http://%s:%d", rt.settings.host, port)
