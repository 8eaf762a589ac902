"""The HTTP shell, one module per surface: requests in, records on the log or an honest "not now" out."""

from pipeline.bootstrap import Runtime


async def run(rt: Runtime) -> None:
    """Serve until ``rt.stop`` is set."""
    # The server and its framework are this role's alone: other rooms read parts of this package.
    from pipeline.gateway.server import serve  # noqa: PLC0415

    await serve(rt)
