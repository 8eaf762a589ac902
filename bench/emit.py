"""Measure conversions posted per second. Run by `python -m bench` after the projector stage.

The peer is a plain aiohttp loop that posts the same bodies to the same receiver.
"""

import asyncio
import time

import aiohttp
from aiohttp import web

from bench.costs import pace_with_costs
from bench.figures import Cost, Rate
from bench.house import BRAND, TENANT, World
from bench.material import activity
from pipeline import admin
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.secrets.secret_ring import secret_ring

AT_ONCE = 32


class Counter:
    """A receiver that only counts requests."""

    def __init__(self) -> None:
        self.seen = 0

    async def __call__(self, request: web.Request) -> web.Response:
        """Count a request and accept it."""
        await request.read()
        self.seen += 1
        return web.Response()


async def run(world: World, counter: Counter, origin: str) -> tuple[Rate, list[Cost]]:
    """Measure how fast the emitter sends the conversions that the projector stage stored: two per email."""
    total = 2 * world.size.project
    async with open_database(world.settings, size=1) as pool:
        secret = secret_ring(world.settings)
        await admin.add_destination(pool, admin.Destination(TENANT, BRAND, origin, "bench-key"), secret)

    async def posted() -> int:
        return counter.seen

    async with world.roles("emit"):
        rate, costs = await pace_with_costs(posted, total, world.size.within, stage="emit", unit="conversion")
    return Rate("emit", "conversions", rate, f"bare aiohttp, {AT_ONCE} at once", await peer(origin, total)), costs


async def peer(origin: str, total: int) -> float:
    """Measure posting the same bodies without order, leases or recorded outcomes."""
    left = iter(range(total))
    url, headers = f"{origin}/email/conversion", {"X-API-KEY": "bench-key", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as http:

        async def caller() -> None:
            for number in left:
                body = b'{"activity":' + activity(number) + b',"email_id":"x","delivery_status":"open"}'
                async with http.post(url, data=body, headers=headers) as response:
                    await response.read()

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return total / (time.perf_counter() - began)
