"""Suppressions that an earlier version wrote under its own key, asked for by the dispatcher."""

from pipeline.runtime.signing import Signer
from pipeline.settings import Settings
from tests.conftest import SECRET
from tests.support.dispatching import accept, dispatching, provide, request
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from topics.registry import PROVIDER_ACKS


async def test_address_suppressed_under_the_key_of_an_earlier_version_gets_nothing(settings: Settings) -> None:
    before = Signer(SECRET, "address").digest("user@bücher.example".encode())
    async with smtp_receiver() as receiver, dispatching(settings) as rt:
        await provide(rt, receiver.port)
        insert = "insert into projections.evidence values ('acme', '7', %s, %s, 'complaint', 'e', 1) returning 1"
        await rows(rt, insert, before, request("x").email_id)
        await accept(rt, "user@BÜCHER.example", "user@xn--bcher-kva.example", "user@straße.example")

        async def done() -> bool:
            return await rows(rt, "select count(*) from jobs.jobs where state = 'done'") == [(3,)]

        await until(done)
    found = await on(settings, PROVIDER_ACKS)
    assert sorted(type(ack).__name__ for ack in found) == ["Acked", "Dropped", "Dropped"]
    assert receiver.to("user@xn--strae-oqa.example")
