"""The entry point of the role `mailfold gateway`, which accepts HTTP requests and inbound mail."""

from typing import Final

import aiohttp

from pipeline.gateway.certificates import ConnectorFactory
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.database import open_standby

STANDBY_MAX_CONNECTIONS: Final = 6
"""Connections to the standby at once, as many as a role has to the primary."""


async def run(rt: Runtime, connector: ConnectorFactory = aiohttp.TCPConnector) -> None:
    """Serve until ``rt.stop`` is set; ``connector`` makes the connections to providers' own servers."""
    # Imported here because other packages import parts of this one and need neither the server nor its framework.
    from pipeline.gateway.server import serve  # noqa: PLC0415

    async with open_standby(rt.settings, size=STANDBY_MAX_CONNECTIONS) as standby:
        await serve(rt, connector, standby)
