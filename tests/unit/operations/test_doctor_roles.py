"""What the roles on this machine say of themselves to `mailfold doctor`."""

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.operations.doctor.roles import check_roles
from pipeline.settings import Settings


@contextlib.asynccontextmanager
async def answering(status: int, body: str) -> AsyncIterator[int]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_get("/readyz", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = find_free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def test_each_role_is_told_as_it_says_itself() -> None:
    problems = '{"status": "unavailable", "problems": {"worker": "recovering states"}}'
    async with answering(200, "{}") as ready, answering(503, problems) as waiting, answering(500, "?") as strange:
        settings = Settings(
            ops_host="0.0.0.0",
            ops_port_gateway=ready,
            ops_port_worker=waiting,
            ops_port_dispatch=strange,
            ops_port_project=find_free_port(),
            ops_port_emit=0,
        )
        found = [(row.verdict, row.text.partition(" at ")[0]) async for row in check_roles(settings)]
    assert found == [
        ("ok", "gateway is ready"),
        ("warn", "worker is not ready: worker: recovering states"),
        ("warn", "dispatch is not ready: 500"),
        ("skip", "no project answers"),
    ]


async def test_roles_without_endpoints_are_not_asked() -> None:
    assert [row.verdict async for row in check_roles(Settings(ops_host=""))] == ["skip"]
