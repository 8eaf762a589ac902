"""A brand with two providers: shares, failover, and never both of them for one email."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline import admin
from pipeline.admin import Brand, Provider, Tenant
from pipeline.dispatch.routing.rendezvous import Route
from pipeline.dispatch.routing.routes import get_brand_routing, set_routes
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.command import armed, ends, process
from tests.support.dispatching import accept, dispatching
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import Receiver, smtp_receiver
from topics.acks import Acked, Deferred, Failed
from topics.registry import PROVIDER_ACKS

FAST = {"dispatch_schedule": (0.1, 0.1, 0.1, 0.1), "smtp_timeout": 3.0}


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


@pytest.fixture
def short(settings: Settings) -> Settings:
    """What a killed dispatcher had in hand is free again soon."""
    return settings.model_copy(update={"lease_seconds": 2.0})


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[Receiver, Receiver]]:
    async with smtp_receiver() as one, smtp_receiver() as other:
        yield one, other


async def route(rt: Runtime, one: int, other: int, weights: tuple[float, float] = (1, 1)) -> None:
    await admin.add_tenant(rt.pool, Tenant("acme"))
    for name, port in (("one", one), ("other", other)):
        await admin.add_provider(rt.pool, Provider(name, host="127.0.0.1", port=port), RING)
    await admin.add_brand(rt.pool, Brand("acme", "7", "one"))
    await weigh(rt, *weights)


async def weigh(rt: Runtime, one: float, other: float) -> None:
    await set_routes(rt.pool, "acme", "7", [Route("one", one), Route("other", other)])


async def sent(rt: Runtime, count: int) -> bool:
    return len(await rows(rt, "select 1 from jobs.jobs where state = 'done'")) == count


async def test_mail_is_distributed_by_weights_of_routes(quick: Settings) -> None:
    async with two() as (one, other), dispatching(quick) as rt:
        await route(rt, one.port, other.port, (3, 1))
        await accept(rt, *[f"user{number}@example.com" for number in range(60)])
        await until(lambda: sent(rt, 60))
        assert len(one.mails) + len(other.mails) == 60
        assert len(one.mails) > len(other.mails) > 3
        assert await rows(rt, "select distinct lane from jobs.lanes where queue = 'provider'") == []
    assert {ack.provider for ack in await on(quick, PROVIDER_ACKS)} == {"one", "other"}


@pytest.mark.parametrize("trouble", ["misconfigured", "down"])
async def test_email_not_accepted_by_one_provider_goes_to_the_other_at_once(quick: Settings, trouble: str) -> None:
    async with two() as (one, other), dispatching(quick) as rt:
        await route(rt, 1 if trouble == "down" else one.port, other.port, (1000, 1))
        one.mail_from = "550 5.7.1 who are you?"
        await accept(rt, *[f"user{number}@example.com" for number in range(20)])
        await until(lambda: sent(rt, 20))
        assert len(other.mails) == 20
        result = await rows(rt, "select lane, trips > 0 from jobs.lanes where queue = 'provider'")
        assert result == [("one", True)], "it is shown as down, and its breaker is its own"
        assert await rows(rt, "select lane from jobs.lanes where queue = 'dispatch' and trips > 0") == []
    acks = await on(quick, PROVIDER_ACKS)
    assert {(type(ack), ack.provider) for ack in acks} == {(Acked, "other")}, "it cost nobody an attempt"


@pytest.mark.parametrize("stage", ["rcpt", "data"])
async def test_unverified_sender_of_one_brand_does_not_affect_others(quick: Settings, stage: str) -> None:
    async with two() as (one, other), dispatching(quick) as rt:
        await route(rt, one.port, other.port, (1000, 1))
        getattr(one, stage)["anna@example.com"] = ["550 From address not verified"]
        await accept(rt, "anna@example.com")
        await until(lambda: sent(rt, 1))
        assert other.to("anna@example.com")
        assert await rows(rt, "select lane from jobs.lanes where trips > 0") == []


async def test_reply_quoted_from_recipient_server_never_opens_breaker(quick: Settings) -> None:
    async with smtp_receiver() as direct, dispatching(quick) as rt:
        direct.rcpt["anna@example.com"] = ["550 5.7.1 relaying denied"]
        await admin.add_tenant(rt.pool, Tenant("acme"))
        provider = Provider("main", host="127.0.0.1", port=direct.port, means_delivered=True)
        await admin.add_provider(rt.pool, provider, RING)
        await admin.add_brand(rt.pool, Brand("acme", "7", "main"))
        await accept(rt, "anna@example.com")
        await until(lambda: _dead(rt))
        assert await rows(rt, "select lane from jobs.lanes where trips > 0 or failures > 0") == []
    assert {type(ack) for ack in await on(quick, PROVIDER_ACKS)} == {Deferred, Failed}


async def _dead(rt: Runtime) -> bool:
    return await rows(rt, "select state from jobs.jobs") == [("dead",)]


async def test_repaired_provider_gets_its_mail_again(quick: Settings) -> None:
    async with two() as (one, other), dispatching(quick) as rt:
        one.mail_from = "550 5.7.1 who are you?"
        await route(rt, one.port, other.port, (1000, 1))
        await accept(rt, "first@example.com")
        await until(lambda: bool(other.mails))
        one.mail_from = ""

        async def back() -> bool:
            await accept(rt, "next@example.com")
            return bool(one.mails)

        await until(back)
        await until(lambda: _healed(rt))


async def _healed(rt: Runtime) -> bool:
    return not await rows(rt, "select lane from jobs.lanes where queue = 'provider' and trips > 0")


async def test_paused_provider_gets_no_mail(quick: Settings) -> None:
    async with two() as (one, other), dispatching(quick) as rt:
        await route(rt, one.port, other.port)
        await JobStore(rt.pool, "provider", ClaimLimits(1, 1, 10)).pause_lane("one", "by hand")
        await accept(rt, *[f"user{number}@example.com" for number in range(20)])
        await until(lambda: sent(rt, 20))
        assert (len(one.mails), len(other.mails)) == (0, 20)


async def test_mail_waits_without_attempts_while_all_providers_are_down(quick: Settings) -> None:
    async with two() as (one, other), dispatching(quick) as rt:
        one.mail_from = other.mail_from = "550 5.7.1 who are you?"
        await route(rt, one.port, other.port)
        await accept(rt, "anna@example.com")
        await until(lambda: _broken(rt, 3))
        assert await rows(rt, "select state, attempts, route from jobs.jobs") == [("pending", 0, "")]
        other.mail_from = ""
        await until(lambda: sent(rt, 1), 30)
    assert one.mails == []


async def _broken(rt: Runtime, lanes: int) -> bool:
    return len(await rows(rt, "select lane from jobs.lanes where trips > 0")) == lanes


async def test_unknown_outcome_is_resent_to_same_provider_after_weights_change(
    quick: Settings,
) -> None:
    slow = quick.model_copy(update={"dispatch_schedule": (5.0, 0.1)})
    async with two() as (one, other), dispatching(slow) as rt:
        one.hang_up_after_data.add("anna@example.com")
        await route(rt, one.port, other.port, (1, 1e-9))
        await accept(rt, "anna@example.com")
        await until(lambda: bool(one.mails))
        await weigh(rt, 1e-9, 1)

        async def changed() -> bool:
            await accept(rt, "bert@example.com")
            return bool(other.mails)

        await until(changed)
        await until(lambda: len(one.to("anna@example.com")) == 2, 40)
        await until(lambda: _all_done(rt))
        assert other.to("anna@example.com") == []
    annas = {ack.email_id for ack in await on(slow, PROVIDER_ACKS) if isinstance(ack, Deferred)}
    acks = [(type(ack), ack.provider) for ack in await on(slow, PROVIDER_ACKS) if ack.email_id in annas]
    assert acks == [(Deferred, "one"), (Acked, "one")]


async def _all_done(rt: Runtime) -> bool:
    return not await rows(rt, "select 1 from jobs.jobs where state <> 'done'")


async def test_unknown_outcome_before_routes_existed_is_bound_to_its_provider(quick: Settings) -> None:
    slow = quick.model_copy(update={"dispatch_schedule": (4.0, 0.1)})
    async with two() as (one, other), dispatching(slow) as rt:
        one.hang_up_after_data.add("anna@example.com")
        await route(rt, one.port, other.port)
        await set_routes(rt.pool, "acme", "7", [])
        await accept(rt, "anna@example.com")
        await until(lambda: bool(one.mails))
        await weigh(rt, 1e-9, 1)
        await until(lambda: sent(rt, 1))
    assert len(one.mails) == 2
    assert other.mails == []


async def test_email_of_killed_dispatcher_never_goes_to_other_provider(short: Settings, tmp_path: Path) -> None:
    async with two() as (one, other), open_runtime(short) as rt:
        await route(rt, one.port, other.port)
        await accept(rt, *[f"user{number}@example.com" for number in range(40)])
        async with process(short, "dispatch", **armed("dispatch.after-250", tmp_path)) as first:
            assert await ends(first) == 137
        had, has_not = (one, other) if one.mails else (other, one)
        accepted = {mail.recipient for mail in had.mails}
        assert accepted, "it was taken, and nobody knows"
        await weigh(rt, *((1e-9, 1) if had is one else (1, 1e-9)))
        async with process(short, "dispatch"):
            await until(lambda: sent(rt, 40), 40)
    assert not accepted & {mail.recipient for mail in has_not.mails}
    both = [{mail.recipient for mail in receiver.mails} for receiver in (one, other)]
    assert not both[0] & both[1]
    assert len(both[0] | both[1]) == 40


async def test_email_of_frozen_dispatcher_waits_for_its_provider_that_is_down(
    short: Settings,
) -> None:
    async with two() as (one, other), open_runtime(short) as rt:
        one.slow["anna@example.com"] = 60
        await route(rt, one.port, other.port, (1, 1e-9))
        await accept(rt, "anna@example.com")
        async with process(short, "dispatch") as killed:
            await until(lambda: one.asked == 1, 40)
            await until(lambda: _remembered(rt, "one"))
            os.kill(killed.pid, signal.SIGKILL)
            await ends(killed)
        await JobStore(rt.pool, "provider", ClaimLimits(1, 1, 10)).pause_lane("one", "down")
        async with process(short, "dispatch"):
            await until(lambda: _waits(rt), 40)
            await accept(rt, "bert@example.com")
            await until(lambda: bool(other.mails), 40)
    assert [mail.recipient for mail in other.mails] == ["bert@example.com"]


async def _remembered(rt: Runtime, provider: str) -> bool:
    return await rows(rt, "select route from jobs.jobs") == [(provider,)]


async def _waits(rt: Runtime) -> bool:
    result = await rows(rt, "select last_error from jobs.jobs where state = 'pending'")
    return any("which may have got it" in error for (error,) in result)


async def test_routes_of_brand_or_tenant_are_replaced_by_later_ones(quick: Settings) -> None:
    async with open_runtime(quick) as rt:
        await route(rt, 1, 2)
        assert (await get_brand_routing(rt.pool, "acme", "7", RING)).routes == (Route("one", 1), Route("other", 1))
        await admin.add_brand(rt.pool, Brand("acme", "*", "other"))
        assert (await get_brand_routing(rt.pool, "acme", "8", RING)).only_provider == "other"
        await set_routes(rt.pool, "acme", "7", [])
        assert (await get_brand_routing(rt.pool, "acme", "7", RING)).only_provider == "one"
