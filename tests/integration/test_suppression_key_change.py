"""Suppressions that an earlier version stored under its own hash of an address still hold for the dispatcher."""

from pipeline.runtime.secrets.signing import AddressHasher
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.dispatching import accept, dispatching, provide, request
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from topics.registry import PROVIDER_ACKS


async def test_address_suppressed_by_an_earlier_version_gets_no_mail(settings: Settings) -> None:
    old_hash = AddressHasher(RING).digest("user@bücher.example".encode())
    async with smtp_receiver() as receiver, dispatching(settings) as rt:
        await provide(rt, receiver.port)
        insert = "insert into projections.evidence values ('acme', '7', %s, %s, 'complaint', 'e', 1) returning 1"
        await rows(rt, insert, old_hash, request("x").email_id)
        await accept(rt, "user@BÜCHER.example", "user@xn--bcher-kva.example", "user@straße.example")

        async def done() -> bool:
            return await rows(rt, "select count(*) from jobs.jobs where state = 'done'") == [(3,)]

        await until(done)
    acks = await on(settings, PROVIDER_ACKS)
    assert sorted(type(ack).__name__ for ack in acks) == ["Acked", "Dropped", "Dropped"]
    assert receiver.to("user@xn--strae-oqa.example")
