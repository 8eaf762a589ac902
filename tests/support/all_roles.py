"""Run a gateway, a dispatcher, a projector and an emitter in this process, and send through all of them."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pipeline import admin
from pipeline.admin import Destination
from pipeline.dispatch import main as dispatch
from pipeline.emit import main as emit
from pipeline.project import main as project
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from tests.support.changes import Log, acked, event, identified, request
from tests.support.dispatching import accept, provide
from tests.support.fasttrack import message
from tests.support.gateway import Gateway, gateway
from tests.support.http_receiver import FastTrack, http_receiver
from tests.support.projecting import publish
from tests.support.seeing import rows, until
from tests.support.smtp_receiver import Receiver, smtp_receiver
from tests.support.working import beside
from topics.events import EventKind

PATIENCE_S = 30


@dataclass(frozen=True)
class RunningRoles:
    """The roles, and the servers that receive what they send."""

    served: Gateway
    mails: Receiver
    conversions: FastTrack

    async def check(self, number: int) -> None:
        """Send an email and a conversion through every loop that uses Postgres; ``number`` is new each time."""
        rt = self.served.rt
        answer = await self.served.post([message(f"m{number}")])
        assert answer.status_code == 200, answer.text
        # The dispatcher's leader reads the log into jobs, and its engine is notified of them.
        [sent] = await accept(rt, f"player{number}@example.com")
        await until(lambda: sent.recipient in [mail.recipient for mail in self.mails.mails], PATIENCE_S)
        now = rt.clock()
        before = len(self.conversions.seen)
        log = Log().fold(request(number, now)).fold(acked(number, now)).fold(event(number, EventKind.DELIVERED, now))
        await publish(rt, log.changes)
        # The projector writes rows and the conversion's job; the emitter sends it.
        await until(lambda: len(self.conversions.seen) > before, PATIENCE_S)
        query = "select status from projections.history where email_id = %s"
        assert await rows(rt, query, identified(number)) == [("delivered",)]


@contextlib.asynccontextmanager
async def all_roles(settings: Settings) -> AsyncIterator[RunningRoles]:
    """Run all roles but the worker until the end of the block, with a provider and destinations for their emails."""
    async with (
        smtp_receiver() as mails,
        http_receiver() as conversions,
        gateway(settings) as served,
        beside(served.rt, dispatch.run),
        beside(served.rt, project.run),
        beside(served.rt, emit.run),
    ):
        await provide(served.rt, mails.port)
        for brand in "12":
            destination = Destination("acme", brand, conversions.url, "their-key")
            await admin.add_destination(served.rt.pool, destination, secret_ring(settings))
        yield RunningRoles(served, mails, conversions)
