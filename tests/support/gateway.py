"""Run a gateway with real Kafka and Postgres on a free port in this process, and call it over real HTTP."""

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
    """A running gateway with a tenant `acme`, its API key and an HTTP client."""

    def __init__(self, rt: Runtime, http: httpx.AsyncClient, key: str) -> None:
        self.rt = rt
        self.http = http
        self.key = key

    async def post(self, body: Any, **headers: str) -> httpx.Response:
        """Post a batch: bytes as they are, anything else as JSON."""
        headers = {"X-Api-Key": self.key, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if isinstance(body, bytes):
            return await self.http.post("/channels/email/batch", content=body, headers=headers)
        return await self.http.post("/channels/email/batch", json=body, headers=headers)

    async def metric(self, sample: str) -> float:
        """Return the value of a sample in /metrics; 0 where it is missing."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample + " ")), 0.0)


@contextlib.asynccontextmanager
async def gateway(
    settings: Settings, *, connector: ConnectorFactory = aiohttp.TCPConnector, **changed: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway until the end of the block, where it must stop without an error within 8 s."""
    own = settings.model_copy(update={"port": 0, **changed})
    port_file = own.data_dir / PORT_FILE
    port_file.unlink(missing_ok=True)
    async with open_runtime(own, role="gateway") as rt:
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
