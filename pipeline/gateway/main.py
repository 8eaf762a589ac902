"""The entry point of the role `mailfold gateway`, which accepts HTTP requests and inbound mail."""

import aiohttp

from pipeline.gateway.certificates import ConnectorFactory
from pipeline.runtime.bootstrap import Runtime


async def run(rt: Runtime, connector: ConnectorFactory = aiohttp.TCPConnector) -> None:
    """Serve until ``rt.stop`` is set; ``connector`` makes the connections to providers' own servers."""
    # Imported here because other packages import parts of this one and need neither the server nor its framework.
    from pipeline.gateway.server import serve  # noqa: PLC0415

    await serve(rt, connector)
