"""A gateway on real Kafka and Postgres for tests: served on a free port in this process, asked over real HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx

from pipeline import admin
from pipeline.gateway.certificates import ConnectorFactory
from pipeline.gateway.main import run
from pipeline.gateway.server import PORT_FILE
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.settings import Settings
from tests.support.seeing import until


class Gateway:
    """A running gateway, one tenant `acme` and its API key."""

    def __init__(self, rt: Runtime, http: httpx.AsyncClient, key: str) -> None:
        self.rt = rt
        self.http = http
        self.key = key

    async def post(self, body: Any, **headers: str) -> httpx.Response:
        """A batch; a list as JSON, bytes as they are."""
        headers = {"X-Api-Key": self.key, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if isinstance(body, bytes):
            return await self.http.post("/channels/email/batch", content=body, headers=headers)
        return await self.http.post("/channels/email/batch", json=body, headers=headers)

    async def metric(self, sample: str) -> float:
        """A sample of /metrics; 0 if it isn't there."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0.0)


@contextlib.asynccontextmanager
async def gateway(
    settings: Settings, *, connector: ConnectorFactory = aiohttp.TCPConnector, **changed: Any
) -> AsyncIterator[Gateway]:
    """Serve until the end of the block; its end must be graceful and within 8 s."""
    mine = settings.model_copy(update={"port": 0, **changed})
    port_file = mine.data_dir / PORT_FILE
    port_file.unlink(missing_ok=True)
    async with open_runtime(mine, role="gateway") as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        key = await admin.add_key(rt.pool, "acme")
        serving = asyncio.create_task(run(rt, connector))
        await until(lambda: port_file.exists() and port_file.read_text().endswith("\n"), watched=serving)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                yield Gateway(rt, http, key)
        finally:
            rt.stop.set()
            async with asyncio.timeout(8):
                await serving
