"""The HTTP shell, one module per surface: requests in, records on the log or an honest "not now" out."""

import aiohttp

from pipeline.gateway.certificates import ConnectorFactory
from pipeline.runtime.bootstrap import Runtime


async def run(rt: Runtime, connector: ConnectorFactory = aiohttp.TCPConnector) -> None:
    """Serve until ``rt.stop`` is set; ``connector`` is the way to providers' own servers."""
    # The server and its framework are this role's alone: other rooms read parts of this package.
    from pipeline.gateway.server import serve  # noqa: PLC0415

    await serve(rt, connector)
