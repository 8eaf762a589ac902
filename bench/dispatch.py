"""Measure emails per second sent to the sandbox by SMTP. Run by `python -m bench`.

The peer is a plain aiosmtplib loop that sends one ready-made message.
"""

import asyncio
import time
from email.message import EmailMessage

import aiohttp
import aiosmtplib

from bench import material
from bench.costs import pace_with_costs
from bench.figures import Cost, Rate
from bench.house import World
from bench.log import produce
from pipeline.content.chunks import pack_content
from pipeline.content.text import with_text_part
from pipeline.runtime.ports import LogEntry
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS
from topics.requests import ContentPointer

CONNECTIONS = 8


async def run(world: World) -> tuple[Rate, list[Cost]]:
    """Measure a dispatcher that starts when all requests are on the log already."""
    total = world.size.dispatch
    await append_requests(world, total)
    async with world.roles("sandbox"), aiohttp.ClientSession() as http:

        async def received() -> int:
            async with http.get(f"{world.sandbox}/healthz") as response:
                return int((await response.json())["received"])

        async with world.roles("dispatch"):
            rate, costs = await pace_with_costs(received, total, world.size.within, stage="dispatch", unit="mail")
        return Rate("dispatch", "mails", rate, f"bare aiosmtplib, {CONNECTIONS} connections", await peer(world)), costs


async def append_requests(world: World, total: int) -> None:
    """Append contents, and then requests that point to them."""
    packed = [pack_content(with_text_part(material.content(number)), f"content-{number}") for number in range(total)]
    places = await produce(
        world.settings, (LogEntry(MESSAGE_CONTENTS, chunks[0].content_id, chunks[0]) for chunks, _ in packed)
    )
    pointers = [
        ContentPointer(
            content_id=chunks[0].content_id,
            partition=place.partition,
            offset=place.offset,
            chunks=1,
            sha256=sha256,
        )
        for (chunks, sha256), place in zip(packed, places, strict=True)
    ]
    requests = (material.request(number, pointer) for number, pointer in enumerate(pointers))
    await produce(world.settings, (LogEntry(SEND_REQUESTS, request.email_id, request) for request in requests))


async def peer(world: World) -> float:
    """Measure sending one message of the same size repeatedly, with as many connections as the dispatcher may have."""
    total = world.size.dispatch
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "news@brand.test", "player@example.test", "Offer"
    mail.set_content("text")
    mail.add_alternative(material.HTML, subtype="html")
    raw, left = mail.as_bytes(), iter(range(total))

    async def connection() -> None:
        port = world.settings.sandbox_smtp_port
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, use_tls=False) as smtp:
            for number in left:
                await smtp.sendmail("b@mailfold.localhost", [f"peer{number}+silent@example.test"], raw)

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return total / (time.perf_counter() - began)
