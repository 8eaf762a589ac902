"""The dispatcher against a real log, a real database and a real mail server."""

from pipeline.settings import Settings
from tests.support.dispatching import accept, dispatching, on, provide, rows, until
from tests.support.smtp_receiver import smtp_receiver
from topics.acks import Acked
from topics.registry import PROVIDER_ACKS


async def test_a_request_becomes_a_mail_and_its_ack_closes_the_job(settings: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(settings) as rt:
        await provide(rt, receiver.port)
        [request] = await accept(rt, "anna@example.com")
        await until(lambda: len(receiver.mails) == 1)
        mail = receiver.mails[0]
        assert mail.recipient == "anna@example.com"
        assert mail.message["From"] == "Shop <news@shop.example>"

        async def closed() -> bool:
            return await rows(rt, "select state, payload from jobs.jobs") == [("done", b"")]

        await until(closed)
        [ack] = await on(settings, PROVIDER_ACKS)
        assert isinstance(ack, Acked)
        assert (ack.email_id, ack.code, ack.attempt) == (request.email_id, 250, 1)
        assert ack.provider_message_id == "abc123"
