"""Messages/s accepted: batches of 500 with 5 kB of HTML each; beside a bare producer of the same records."""

import asyncio
import time

import aiohttp
import msgspec

from bench import material
from bench.figures import Rate
from bench.house import World
from bench.log import produce
from pipeline.content.chunks import pack_content
from pipeline.runtime.ports import LogEntry
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS

BATCH, CALLERS = 500, 4


async def run(world: World) -> Rate:
    """Post until all is accepted."""
    total = world.size.accept
    bodies = [material.batch(range(start, min(start + BATCH, total))) for start in range(0, total, BATCH)]
    async with world.roles("gateway"), aiohttp.ClientSession() as http:
        await post(http, world, material.batch(range(10**6, 10**6 + 5)))
        began = time.perf_counter()
        await post_all(http, world, bodies)
        seconds = time.perf_counter() - began
    return Rate("accept", "messages", total / seconds, "bare aiokafka producer", await peer(world))


async def post_all(http: aiohttp.ClientSession, world: World, bodies: list[bytes]) -> None:
    """A few callers at once, as Fast Track's."""
    waiting = list(reversed(bodies))

    async def caller() -> None:
        while waiting:
            await post(http, world, waiting.pop())

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def post(http: aiohttp.ClientSession, world: World, body: bytes) -> None:
    """One batch, all of it taken."""
    headers = {"X-Api-Key": world.key, "Content-Type": "application/json"}
    async with http.post(f"{world.gateway}/channels/email/batch", data=body, headers=headers) as response:
        text = await response.read()
        if response.status != 200 or msgspec.json.decode(text)["failed"]:
            raise RuntimeError(f"{response.status} {text[:300]!r}")


async def peer(world: World) -> float:
    """The same two records per message, made beforehand, confirmed by the broker: no HTTP, no JSON, no zstd."""
    total = world.size.accept
    chunks, _ = pack_content(material.content(), "bench")
    entries = []
    for number in range(total):
        entries.append(LogEntry(MESSAGE_CONTENTS, f"content-{number}", chunks[0]))
        entries.append(LogEntry(SEND_REQUESTS, material.email_id(number), material.request(number)))
    began = time.perf_counter()
    await produce(world.settings, entries)
    return total / (time.perf_counter() - began)
