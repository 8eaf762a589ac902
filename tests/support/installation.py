"""Run worker, dispatch, project and emit with an SMTP server and a Fast Track, and count what reached both."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from pipeline import admin
from pipeline.admin import Destination
from pipeline.dispatch import main as dispatch
from pipeline.emit import main as emit
from pipeline.project import main as project
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.dispatching import accept, provide
from tests.support.http_receiver import FastTrack, http_receiver
from tests.support.seeing import rows, until
from tests.support.smtp_receiver import Receiver, smtp_receiver
from tests.support.worker import Worker
from tests.support.working import beside
from topics.requests import SendRequest

PATIENCE_S = 60.0
LANE = "acme/7"


class Outside:
    """What stays the same whatever happens to the installation: the world that gets its mail and conversions."""

    def __init__(self, receiver: Receiver, fasttrack: FastTrack) -> None:
        self.receiver = receiver
        self.fasttrack = fasttrack

    def mails(self) -> Counter[str]:
        """Return how often each recipient got mail."""
        return Counter(mail.recipient for mail in self.receiver.mails)

    def conversions(self) -> Counter[str]:
        """Return how often each conversion was told, by its Idempotency-Key."""
        return Counter(seen.headers["Idempotency-Key"] for seen in self.fasttrack.seen)

    def assert_nothing_twice(self) -> None:
        assert {name: count for name, count in self.mails().items() if count != 1} == {}
        assert {name: count for name, count in self.conversions().items() if count != 1} == {}


@contextlib.asynccontextmanager
async def outside() -> AsyncIterator[Outside]:
    async with smtp_receiver() as receiver, http_receiver() as fasttrack:
        yield Outside(receiver, fasttrack)


async def set_up(settings: Settings, world: Outside) -> None:
    """Add a tenant whose only brand sends to the receiver, which is the final one, and converts to the Fast Track."""
    async with open_runtime(settings, signals=False) as rt:
        await provide(rt, world.receiver.port, means_delivered=True)
        await admin.add_destination(rt.pool, Destination("acme", "7", world.fasttrack.url, "their-key"), RING)


@contextlib.asynccontextmanager
async def installed(settings: Settings, folder: Path) -> AsyncIterator[Runtime]:
    """Run all roles but the gateway until the end of the block."""
    with Worker(settings, folder):
        async with (
            open_runtime(settings, pool_size=12, signals=False) as rt,
            beside(rt, project.run),
            beside(rt, dispatch.run),
            beside(rt, emit.run),
        ):
            yield rt


async def take(rt: Runtime, name: str, count: int) -> list[SendRequest]:
    """Accept emails as the gateway does, each with a content of its own."""
    activity: Any = msgspec.Raw(b'{"id":"a","user_id":7}')
    return [
        request for nth in range(count) for request in await accept(rt, f"{name}{nth}@example.com", activity=activity)
    ]


async def pause(rt: Runtime) -> None:
    """Hold back the brand's mail; what is accepted becomes a job."""
    await rows(rt, "insert into jobs.lanes (queue, lane, paused_at) values ('dispatch', %s, now()) returning 1", LANE)


async def settled(rt: Runtime, world: Outside, emails: int) -> None:
    """Wait until so many emails are delivered by the history, and the conversion of each is told and settled."""

    async def is_settled() -> bool:
        query = (
            "select (select count(*) from projections.history where status = 'delivered'),"
            " (select count(*) from jobs.jobs where queue = 'emit' and state = 'done')"
        )
        return await rows(rt, query) == [(emails, emails)] and len(world.conversions()) == emails

    await until(is_settled, patience=PATIENCE_S)
