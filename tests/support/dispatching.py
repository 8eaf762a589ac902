"""Run the dispatcher in this process, configure its provider, and append requests to the log."""

import time
import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any

from pipeline import admin
from pipeline.admin import Brand, Provider, Tenant
from pipeline.content.chunks import pack_content
from pipeline.dispatch import main as dispatch
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.seeing import on, rows, until
from tests.support.working import working
from topics.contents import MessageContent
from topics.record import EmailId
from topics.registry import MESSAGE_CONTENTS, PROVIDER_ACKS, SEND_REQUESTS
from topics.requests import ContentPointer, Mailbox, SendRequest

FAST = {"dispatch_schedule": (0.1, 0.1, 0.1), "smtp_timeout": 3.0, "lease_seconds": 2.0}
"""Settings with short delays."""
HTML = '<html><body><p>Hello <a href="https://shop.example/offer?a=1&amp;b=2">there</a></p></body></html>'


async def provide(rt: Runtime, port: int, *, brand: str = "7", **values: Any) -> None:
    """Add a tenant whose brand sends through the server on this port."""
    policy = values.pop("unknown_policy", "resend")
    fields: dict[str, Any] = {"provider": f"local-{brand}", "host": "127.0.0.1", "port": port}
    provider = Provider(**(fields | values))
    await admin.add_tenant(rt.pool, Tenant("acme"))
    await admin.add_provider(rt.pool, provider, RING)
    await admin.add_brand(rt.pool, Brand("acme", brand, provider.provider, policy))


async def accept(
    rt: Runtime, *recipients: str, content: MessageContent | None = None, **values: Any
) -> list[SendRequest]:
    """Append requests as the gateway does, after their content, and return them."""
    content = content or MessageContent(html=HTML)
    content_id = str(uuid.uuid4())
    chunks, sha256 = pack_content(content, content_id)
    places = await append_all(rt.log, [LogEntry(MESSAGE_CONTENTS, content_id, chunk) for chunk in chunks])
    pointer = ContentPointer(
        content_id=content_id,
        partition=places[0].partition,
        offset=places[0].offset,
        chunks=len(chunks),
        sha256=sha256,
    )
    requests = [request(recipient, content=pointer, **values) for recipient in recipients]
    await append_all(rt.log, [LogEntry(SEND_REQUESTS, sent.email_id, sent) for sent in requests])
    return requests


def request(recipient: str, **values: Any) -> SendRequest:
    """Return a request; ``values`` are its other fields."""
    fields: dict[str, Any] = {
        "email_id": EmailId(str(uuid.uuid4())),
        "message_id": str(uuid.uuid4()),
        "tenant": "acme",
        "dialect": "fasttrack",
        "brand": "7",
        "recipient": recipient,
        "recorded_at": time.time_ns() // 1_000_000,
        "sender": Mailbox(address="news@shop.example", name="Shop"),
        "subject": "An offer",
    }
    return SendRequest(**(fields | values))


def dispatching(settings: Settings) -> AbstractAsyncContextManager[Runtime]:
    """Run a dispatcher in this process until the end of the block."""
    return working(settings, dispatch.run)


async def in_state(rt: Runtime, *states: str) -> None:
    """Wait until every job is in one of these states."""

    async def are_in_state() -> bool:
        present = {state for (state,) in await rows(rt, "select distinct state from jobs.jobs")}
        return bool(present) and present <= set(states)

    await until(are_in_state)


async def acks(settings: Settings) -> list[str]:
    """Return the names of the acks on the log, sorted."""
    return sorted(type(ack).__name__ for ack in await on(settings, PROVIDER_ACKS))


async def is_broken(rt: Runtime, lane: str) -> bool:
    """Return whether a lane's breaker has tripped."""
    return bool(await rows(rt, "select 1 from jobs.lanes where lane = %s and trips > 0", lane))
