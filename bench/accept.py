"""Measure messages accepted per second, in batches of 500 with 5 kB of HTML each.

The peer is a plain Kafka producer of the same records. Run by `python -m bench`.
"""

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
    """Measure how fast the gateway accepts all messages."""
    total = world.size.accept
    bodies = [material.batch(range(start, min(start + BATCH, total))) for start in range(0, total, BATCH)]
    async with world.roles("gateway"), aiohttp.ClientSession() as http:
        await post(http, world, material.batch(range(10**6, 10**6 + 5)))
        began = time.perf_counter()
        await post_all(http, world, bodies)
        seconds = time.perf_counter() - began
    return Rate("accept", "messages", total / seconds, "bare aiokafka producer", await peer(world))


async def post_all(http: aiohttp.ClientSession, world: World, bodies: list[bytes]) -> None:
    """Post all bodies with a few concurrent callers, as Fast Track does."""
    waiting = list(reversed(bodies))

    async def caller() -> None:
        while waiting:
            await post(http, world, waiting.pop())

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def post(http: aiohttp.ClientSession, world: World, body: bytes) -> None:
    """Post one batch. Raises RuntimeError unless every message is accepted."""
    headers = {"X-Api-Key": world.key, "Content-Type": "application/json"}
    async with http.post(f"{world.gateway}/channels/email/batch", data=body, headers=headers) as response:
        text = await response.read()
        if response.status != 200 or msgspec.json.decode(text)["failed"]:
            raise RuntimeError(f"{response.status} {text[:300]!r}")


async def peer(world: World) -> float:
    """Measure a producer of the same two records per message, built beforehand: no HTTP, no JSON, no compression."""
    total = world.size.accept
    chunks, _ = pack_content(material.content(0), "bench")
    entries = []
    for number in range(total):
        entries.append(LogEntry(MESSAGE_CONTENTS, f"content-{number}", chunks[0]))
        entries.append(LogEntry(SEND_REQUESTS, material.email_id(number), material.request(number)))
    began = time.perf_counter()
    await produce(world.settings, entries)
    return total / (time.perf_counter() - began)
