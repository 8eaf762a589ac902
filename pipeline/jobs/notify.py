"""Listen for Postgres notifications of new jobs, reconnecting when the connection is lost. Called by the job engine."""

import asyncio
import contextlib

import psycopg
from psycopg import sql

from pipeline.runtime.postgres.database import check_writable

PING_INTERVAL_S = 5.0
"""Seconds between checks of the connection."""
RECONNECT_DELAY_S = 1.0
"""Seconds between attempts to connect."""


async def listen(conninfo: str, channel: str, wake: asyncio.Event) -> None:
    """Set ``wake`` at each notification on ``channel``, until cancelled."""
    while True:
        with contextlib.suppress(psycopg.Error, OSError):
            await _listen(conninfo, channel, wake)
        # Notifications sent while we were not connected are lost, so make the engine look for jobs.
        wake.set()
        await asyncio.sleep(RECONNECT_DELAY_S)


async def _listen(conninfo: str, channel: str, wake: asyncio.Event) -> None:
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    async with connection:
        await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        wake.set()
        while True:
            async for _ in connection.notifies(timeout=PING_INTERVAL_S):
                wake.set()
            # A server that was demoted goes on answering, but notifies nobody.
            await check_writable(connection)
