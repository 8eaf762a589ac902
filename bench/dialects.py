"""Measure messages per second of each dialect with one gateway process, each message durable when it is answered.

Also measures the latency of a batch at half of Fast Track's required rate. Run by `python -m bench`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
import msgspec

from bench import accept, material
from bench.figures import Delay, Rate
from bench.house import World
from pipeline.content.templates import make_draft
from pipeline.runtime.postgres.database import open_database
from projections import templates
from topics.templates import TemplateTexts

GOAL = 10_000
"""Fast Track's messages per second, in batches of 500 with 5 kB of HTML."""
GOAL_P99_MS = 100.0
BRAND = "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02"


async def run(world: World) -> tuple[list[Rate], Delay]:
    """Measure one dialect after the other."""
    await _push(world)
    async with world.roles("gateway"), aiohttp.ClientSession() as http:
        rates = [await _fasttrack(http, world)]
        waits = await _half_load(http, world)
        rates += [await _rate(http, world, request) for request in DIALECT_REQUESTS]
    return rates, Delay(f"Fast Track batch of 500 at {GOAL // 2}/s", waits, goal_p99=GOAL_P99_MS)


async def _push(world: World) -> None:
    draft = make_draft("bench", f"{BRAND}.token", {"default": TemplateTexts(subject="Photos", html=material.HTML)})
    made = msgspec.structs.replace(draft, version=1, recorded_at=1)
    async with open_database(world.settings, size=1) as pool, pool.connection() as connection:
        at = await templates.next_offset(connection, 0)
        await templates.project(connection, at, at + 1, [(at, made)])


async def _fasttrack(http: aiohttp.ClientSession, world: World) -> Rate:
    total = world.size.accept
    await accept.post(http, world, material.batch(range(10**6, 10**6 + 500)))
    bodies = [material.batch(range(at, min(at + 500, total))) for at in range(0, total, 500)]
    began = time.perf_counter()
    await accept.post_all(http, world, bodies)
    return Rate("dialect fasttrack", "messages", total / (time.perf_counter() - began), "its goal", GOAL)


async def _half_load(http: aiohttp.ClientSession, world: World) -> tuple[float, ...]:
    """Post ten batches per second without waiting for earlier ones; return the milliseconds that each took."""
    count = max(10, world.size.accept // 250)
    bodies = [material.batch(range(2 * 10**6 + at * 500, 2 * 10**6 + (at + 1) * 500)) for at in range(count)]
    loop = asyncio.get_running_loop()
    began = loop.time() + 0.1

    async def one(nth: int) -> float:
        await asyncio.sleep(began + nth * 1000 / GOAL - loop.time())
        asked = time.perf_counter()
        await accept.post(http, world, bodies[nth])
        return (time.perf_counter() - asked) * 1000

    return tuple(await asyncio.gather(*(one(nth) for nth in range(count))))


class DialectRequest(NamedTuple):
    """The path, the body and the number of messages per request of a dialect."""

    name: str
    path: str
    body: Callable[[range], bytes]
    at_once: int


async def _rate(http: aiohttp.ClientSession, world: World, request: DialectRequest) -> Rate:
    total = world.size.accept // 4
    waiting = [request.body(range(at, min(at + request.at_once, total))) for at in range(0, total, request.at_once)]
    headers = {"X-Api-Key": world.key, "Content-Type": "application/json"}

    async def caller() -> None:
        while waiting:
            async with http.post(world.gateway + request.path, data=waiting.pop(), headers=headers) as response:
                text = await response.text()
                if response.status not in (200, 201) or '"Error"' in text:
                    raise RuntimeError(f"{request.name}: {response.status} {text[:300]}")

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(accept.CALLERS)))
    return Rate(f"dialect {request.name}", "messages", total / (time.perf_counter() - began), "Fast Track's goal", GOAL)


def _email_v1(numbers: range) -> bytes:
    fields = {"Type": "token", "BrandId": BRAND, "NumPhotos": -1}
    messages = [{"To": f"player{number}@example.test", "Token": f"t{number}", **fields} for number in numbers]
    return json.dumps({"Messages": messages}).encode()


def _freshmail(numbers: range) -> bytes:
    recipients = [
        {"email": f"player{number}@example.test", "personalization": {"name": f"Player {number}"}} for number in numbers
    ]
    return json.dumps(
        {
            "recipients": recipients,
            "from": {"name": "Brand", "email": "news@brand.test"},
            "subject": "Hello $$name$$",
            "contents": [{"type": "text/html", "body": f"<h1>Hello $$name$$</h1>{material.HTML}"}],
        }
    ).encode()


def _extrahorizon(numbers: range) -> bytes:
    to = [f"player{number}@example.test" for number in numbers]
    return json.dumps({"recipients": {"to": to}, "subject": "Hello", "body": material.HTML}).encode()


DIALECT_REQUESTS = (
    DialectRequest("email_v1", "/v1/Email/", _email_v1, 500),
    DialectRequest("freshmail", "/v3/messaging/emails", _freshmail, 100),
    DialectRequest("extrahorizon", "/mail/v1/", _extrahorizon, 50),
)
