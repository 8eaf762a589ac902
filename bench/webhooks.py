"""Measure events per second of signed SendGrid webhooks accepted, and of the same events normalized; one process each.

The peer of the first is a plain server that reads the same bodies and appends nothing, that of the second a loop that
only parses the same events. Run by `python -m bench`.
"""

import asyncio
import base64
import sys
import time
from collections.abc import Callable, Sequence

import aiohttp
import msgspec
from aiohttp import web
from aiokafka.admin import AIOKafkaAdminClient
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench import sendgrid
from bench.figures import Rate, pace
from bench.house import World, sink
from bench.log import committed
from pipeline import admin
from pipeline.devstack.servers.process import Program, spawn
from pipeline.runtime.environment import environment_of
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from topics.registry import PROVIDER_WEBHOOKS

CALLERS = 4
NAME = "mailer"


async def run(world: World) -> list[Rate]:
    """Measure posting all webhooks, and then normalizing them."""
    key = ec.generate_private_key(ec.SECP256R1())
    await _provider(world, key)
    signer = Signer(secret_ring(world.settings), "echo")
    bodies = [sendgrid.body(number, signer) for number in range(world.size.webhooks)]
    total = len(bodies) * sendgrid.EVENTS
    async with world.roles("gateway"):
        taken = await _posted(f"{world.gateway}/webhooks/{NAME}", key, bodies)
    async with sink(_read) as origin:
        bare = await _posted(origin, key, bodies)
    rates = [Rate("webhooks", "events", total / taken, "aiohttp that only reads", total / bare)]
    parsed = await asyncio.to_thread(_parsed, bodies)
    return [*rates, Rate("normalize", "events", await _normalized(world), "parsed, nothing else", total / parsed)]


async def _provider(world: World, key: ec.EllipticCurvePrivateKey) -> None:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    row = admin.Provider(NAME, "127.0.0.1", 25, kind="sendgrid", webhook_keys=(base64.b64encode(der).decode(),))
    async with open_database(world.settings, size=1) as pool:
        await admin.add_provider(pool, row, secret_ring(world.settings))


async def _posted(url: str, key: ec.EllipticCurvePrivateKey, bodies: Sequence[bytes]) -> float:
    """Post all bodies with a few concurrent callers and return the seconds; an empty one warms up the connections."""
    waiting = [(body, sendgrid.signed(key, body)) for body in bodies]

    async with aiohttp.ClientSession() as http:

        async def caller() -> None:
            while waiting:
                body, headers = waiting.pop()
                async with http.post(url, data=body, headers=headers) as response:
                    if response.status != 200:
                        raise RuntimeError(f"{response.status} {(await response.read())[:300]!r}")

        async with http.post(url, data=b"[]", headers=sendgrid.signed(key, b"[]")) as response:
            response.raise_for_status()
        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return time.perf_counter() - began


async def _normalized(world: World) -> float:
    """Return the events normalized per second, by the commits of the group, which follow the confirmed events."""
    client = AIOKafkaAdminClient(bootstrap_servers=world.settings.kafka_bootstrap)
    await client.start()
    log = world.settings.data_dir / "logs" / "normalizing.log"
    command = (sys.executable, "-m", "bench.normalizing")
    child = spawn(Program("normalizing", command, log, environment_of(world.settings)))
    group, names = f"{world.settings.topic_prefix}mailfold", [world.settings.topic(PROVIDER_WEBHOOKS.name)]
    try:
        # One record more than there are bodies: the empty one that was posted first.
        total = world.size.webhooks + 1
        return sendgrid.EVENTS * await pace(lambda: committed(client, group, names), total, world.size.within)
    except TimeoutError as error:
        raise RuntimeError(f"not done in time:\n{child.tail()}") from error
    finally:
        await client.close()
        await child.stop_async(8.0)


def _parsed(bodies: Sequence[bytes]) -> float:
    parse: Callable[[bytes], object] = msgspec.json.decode
    began = time.perf_counter()
    for body in bodies:
        parse(body)
    return time.perf_counter() - began


async def _read(request: web.Request) -> web.Response:
    await request.read()
    return web.Response()
