"""The entry point of the role `mailfold gateway`, which accepts HTTP requests and inbound mail."""

from typing import Final

import aiohttp

from pipeline.gateway.certificates import ConnectorFactory
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.database import open_second_pool, open_standby

STANDBY_MAX_CONNECTIONS: Final = 6
"""Connections to the standby at once, as many as a role has to the primary."""
HISTORY_MAX_CONNECTIONS: Final = 4
"""Connections to the primary for questions about the history, which may take seconds: acceptance has others. One may
be an export's, and a tenant has :data:`pipeline.gateway.tenant_questions.QUESTIONS_AT_ONCE`."""


async def run(rt: Runtime, connector: ConnectorFactory = aiohttp.TCPConnector) -> None:
    """Serve until ``rt.stop`` is set; ``connector`` makes the connections to providers' own servers."""
    # Imported here because other packages import parts of this one and need neither the server nor its framework.
    from pipeline.gateway.server import serve  # noqa: PLC0415

    async with (
        open_standby(rt.settings, size=STANDBY_MAX_CONNECTIONS) as standby,
        open_second_pool(rt.settings, size=HISTORY_MAX_CONNECTIONS) as history_pool,
    ):
        await serve(rt, connector, standby, history_pool)
