"""Measure pixel hits per second of one gateway process, and check that all of them are on the log afterwards.

Run by `python -m bench`; the load comes from a process of its own (`bench.hits`).
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator

import aiohttp

from bench import material
from bench.figures import Delay, Rate
from bench.house import World, answers
from pipeline.content import tokens
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.process import Program, spawn
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import discover_partitions
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from topics.codec import decode
from topics.registry import DELIVERY_EVENTS

GOAL = 5_000
CONNECTIONS = 32
EMAILS = 2_000


async def run(world: World) -> tuple[Rate, Delay]:
    """Request images as fast as the gateway answers, then count the open events on the log."""
    signer = Signer(secret_ring(world.settings), "track")
    paths = [f"/o/{tokens.pixel_token(signer, material.email_id(number))}.gif" for number in range(EMAILS)]
    total = world.size.hits
    async with bare(world) as port:
        await load(port, total // 10, paths)
        peer, peer_millis = await load(port, total, paths)
    async with world.roles("gateway"):
        warm = total // 10
        await load(world.settings.port, warm, paths)
        rate, millis = await load(world.settings.port, total, paths)
        await spool_emptied(world)
    heard = await opens(world)
    if heard != total + warm:
        raise RuntimeError(f"{total + warm} pictures were fetched, {heard} opens are on the log")
    name = "bare uvicorn, nothing noted"
    return (
        Rate("pixel", "hits, all on the log", rate, name, peer),
        Delay(f"pixel, {CONNECTIONS} at a time", tuple(millis), peer=name, peer_millis=tuple(peer_millis)),
    )


@contextlib.asynccontextmanager
async def bare(world: World) -> AsyncIterator[int]:
    """Run the peer and yield its port."""
    port = find_free_port()
    log = world.settings.data_dir / "logs" / "bare.log"
    child = spawn(Program("bare", (sys.executable, "-m", "bench.bare", str(port)), log, {}))
    try:
        await answers(f"http://127.0.0.1:{port}/", child)
        yield port
    finally:
        await child.stop_async(8.0)


async def load(port: int, total: int, paths: list[str]) -> tuple[float, list[float]]:
    """Run the load generator; return the responses per second and the milliseconds of each."""
    command = (sys.executable, "-m", "bench.hits", "127.0.0.1", str(port), str(CONNECTIONS), str(total))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        async with asyncio.timeout(120):
            told, _ = await process.communicate("\n".join(paths).encode())
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError("the load's maker failed; its error is above")
    found = json.loads(told)
    return total / found["seconds"], found["millis"]


async def spool_emptied(world: World) -> None:
    """Wait until all events in memory and in the spool are on the log."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(world.size.within):
        while True:
            async with http.get(f"{world.gateway}/metrics") as response:
                lines = (await response.text()).splitlines()
            if {"mailfold_notes_waiting 0.0", "mailfold_spool_events 0.0"} <= set(lines):
                return
            await asyncio.sleep(0.05)


async def opens(world: World) -> int:
    """Return the number of distinct events on the log; an event confirmed late is there twice, because of the spool."""
    reader = create_consumer(world.settings)
    await reader.start()
    try:
        places = await discover_partitions(reader, world.settings.topic(DELIVERY_EVENTS.name))
        reader.assign(places)
        ends = await reader.end_offsets(places)
        await reader.seek_to_beginning(*places)
        seen: set[str] = set()
        while any([await reader.position(place) < ends[place] for place in places]):
            for records in (await reader.getmany(timeout_ms=1000, max_records=10_000)).values():
                seen |= {decode(DELIVERY_EVENTS, record.value).event_id for record in records}
        return len(seen)
    finally:
        await reader.stop()
