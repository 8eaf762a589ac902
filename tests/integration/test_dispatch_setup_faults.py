"""Set-up faults that a provider reports: the lane waits, and no email bounces."""

import pytest

from pipeline.settings import Settings
from tests.support.dispatching import FAST, accept, acks, dispatching, in_state, is_broken, provide
from tests.support.seeing import rows, until
from tests.support.smtp_receiver import password_is, smtp_receiver


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


UNVERIFIED = "550 The from address does not match a verified Sender Identity"


@pytest.mark.parametrize("stage", ["rcpt", "data"])
async def test_set_up_fault_said_of_an_email_opens_the_breaker_and_bounces_nobody(quick: Settings, stage: str) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        getattr(receiver, stage)["anna@example.com"] = [UNVERIFIED, "250 OK"]
        await provide(rt, receiver.port)
        await accept(rt, "anna@example.com")
        await until(lambda: is_broken(rt, "acme/7"))
        [(error,)] = await rows(rt, "select last_error from jobs.jobs where lane = 'acme/7'")
        await in_state(rt, "done")
    assert "verified Sender Identity" in error
    assert await acks(quick) == ["Acked", "Deferred"]


async def test_email_that_alone_is_told_of_a_set_up_fault_holds_no_other_for_ever(quick: Settings) -> None:
    once_more = quick.model_copy(update={"dispatch_schedule": (0.1,)})
    async with smtp_receiver() as receiver, dispatching(once_more) as rt:
        receiver.data["anna@example.com"] = [UNVERIFIED]
        await provide(rt, receiver.port)
        await accept(rt, "anna@example.com", "bert@example.com")
        await in_state(rt, "done", "dead")
    assert await acks(once_more) == ["Acked", "Deferred", "Failed"]


async def test_a_provider_that_does_not_know_us_stops_its_lane_and_bounces_nobody(quick: Settings) -> None:
    async with smtp_receiver() as refusing, smtp_receiver() as fine, dispatching(quick) as rt:
        refusing.mail_from = "550 5.7.1 who are you?"
        await provide(rt, refusing.port)
        await provide(rt, fine.port, brand="8")
        await accept(rt, "anna@example.com")
        await until(lambda: is_broken(rt, "acme/7"))
        await accept(rt, "bert@example.com", brand="8")
        await until(lambda: bool(fine.to("bert@example.com")))
        assert await rows(rt, "select state, attempts from jobs.jobs where lane = 'acme/7'") == [("pending", 0)]
        refusing.mail_from = ""
        await until(lambda: bool(refusing.to("anna@example.com")))
        await in_state(rt, "done")
    assert await acks(quick) == ["Acked", "Acked"]


async def test_a_wrong_password_is_no_bounce_either(quick: Settings) -> None:
    async with smtp_receiver(**password_is("us", "right")) as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port, username="us", password="wrong")
        await accept(rt, "anna@example.com")
        await until(lambda: is_broken(rt, "acme/7"))
        assert await rows(rt, "select state, attempts from jobs.jobs") == [("pending", 0)]
        await provide(rt, receiver.port, username="us", password="right")
        await until(lambda: bool(receiver.mails))
        await in_state(rt, "done")
    assert receiver.mails[0].login == "us"
    assert await acks(quick) == ["Acked"]
