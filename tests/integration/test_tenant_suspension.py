"""What a suspended tenant may still do at a running gateway and dispatcher, and what happens when it is resumed."""

import time
from typing import Any

import httpx
import pytest

from pipeline import admin
from pipeline.dispatch.deliver import SUSPENDED
from pipeline.dispatch.moved_contents import ContentFinder
from pipeline.errors import NotFound, Refused
from pipeline.operations.doctor.setup import check_setup
from pipeline.settings import Settings
from tests.integration.test_email_v1_send import with_template
from tests.support.changes import Log, acked, request
from tests.support.command import mailfold_on
from tests.support.dialects import SURFACES, Surface
from tests.support.dispatching import FAST, accept, dispatching, in_state, provide
from tests.support.fasttrack import message
from tests.support.gateway import Gateway, gateway
from tests.support.job_rows import INSERT_JOBS, ask
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from tests.support.suppressed import publish
from topics.contents import MessageContent
from topics.registry import SEND_REQUESTS

REASON = "the invoice of May is unpaid"


async def post(served: Gateway, surface: Surface, body: Any = None) -> httpx.Response:
    good = surface.good if body is None else body
    return await served.http.post(surface.path, json=good, headers={"X-Api-Key": served.key})


async def suspended(served: Gateway) -> None:
    """Suspend the tenant, and wait until the gateway knows."""
    await admin.suspend_tenant(served.rt.pool, "acme", REASON)

    async def is_known() -> bool:
        return (await post(served, SURFACES[0], [])).status_code == 403

    await until(is_known, patience=admin.SUSPENSION_DELAY_S)


async def test_every_sending_route_refuses_a_suspended_tenant_in_its_own_words(settings: Settings) -> None:
    async with gateway(settings) as served:
        assert (await post(served, SURFACES[0])).status_code == 200
        await suspended(served)
        for surface in SURFACES:
            answer = await post(served, surface)
            assert answer.status_code == 403, surface.name
            assert surface.is_error(answer.json()), surface.name
            assert f"tenant acme is suspended and may not send: {REASON}" in answer.text
        assert await served.metric('mailfold_api_keys_refused_total{why="suspended"}') >= len(SURFACES)
        await admin.resume_tenant(served.rt.pool, "acme")

        async def is_accepted() -> bool:
            return (await post(served, SURFACES[0], [message("second")])).status_code == 200

        await until(is_accepted, patience=admin.SUSPENSION_DELAY_S)
    assert len(await on(settings, SEND_REQUESTS)) == 2


async def test_tenant_suspended_after_its_key_was_looked_up_is_refused_on_every_route(settings: Settings) -> None:
    async with gateway(settings) as served:
        await with_template(served)
        # The gateway remembers the key for a few seconds, as it does of a request whose body is on its way.
        for surface in SURFACES:
            assert (await post(served, SURFACES[0], [message("first")])).status_code == 200
            await admin.suspend_tenant(served.rt.pool, "acme", REASON)
            answer = await post(served, surface)
            assert answer.status_code == 403, surface.name
            assert surface.is_error(answer.json()), surface.name
            assert f"tenant acme is suspended and may not send: {REASON}" in answer.text
            await admin.resume_tenant(served.rt.pool, "acme")
    assert len({sent.email_id for sent in await on(settings, SEND_REQUESTS)}) == 1


async def test_token_of_suspended_tenant_reads_and_does_not_send(settings: Settings) -> None:
    async with gateway(settings) as served:
        await suspended(served)
        grant = {"grant_type": "password", "password": served.key}
        tokens = await served.http.post("/auth/v2/oauth2/tokens", json=grant)
        bearer = {"Authorization": f"Bearer {tokens.json()['access_token']}"}
        sent = await served.http.post("/mail/v1/", json=SURFACES[3].good, headers=bearer)
        assert (sent.status_code, sent.json()["name"]) == (403, "NO_PERMISSION_EXCEPTION")
        assert (await served.http.get("/mail/v1/", headers=bearer)).status_code == 200


async def test_history_of_suspended_tenant_stays_readable_and_events_count(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await suspended(served)
        now = time.time_ns() // 1_000_000 - 60_000
        await publish(served, Log().fold(request(1, now), acked(1, now)))
        headers = {"X-Api-Key": served.key}

        async def listed() -> Any:
            return (await served.http.get("/v1/Email/", headers=headers)).json()["Emails"]

        [email] = await until(listed)
        assert email["State"] == "sent"
        suppressing = {"address": "anna@example.com", "brand": "7"}
        assert (await served.http.post("/suppressions", json=suppressing, headers=headers)).status_code < 300


async def test_accepted_mail_waits_while_its_tenant_is_suspended(settings: Settings) -> None:
    quick = settings.model_copy(update=FAST)
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        await admin.suspend_tenant(rt.pool, "acme")
        await accept(rt, "anna@example.com", "ben@example.com")
        await in_state(rt, "pending")
        await admin.add_tenant(rt.pool, admin.Tenant("other"))
        await admin.add_brand(rt.pool, admin.Brand("other", "7", "local-7"))
        await accept(rt, "carl@example.com", tenant="other")
        await until(lambda: bool(receiver.to("carl@example.com")))
        assert len(receiver.mails) == 1
        await admin.resume_tenant(rt.pool, "acme")
        await in_state(rt, "done")
        assert sorted(mail.recipient for mail in receiver.mails) == [
            f"{name}@example.com" for name in ("anna", "ben", "carl")
        ]


async def test_mail_that_is_already_claimed_is_released_when_its_tenant_is_suspended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with smtp_receiver() as receiver, dispatching(settings.model_copy(update=FAST)) as rt:
        await provide(rt, receiver.port)
        get = ContentFinder.get

        async def get_and_suspend(self: ContentFinder, *arguments: Any) -> MessageContent:
            await admin.suspend_tenant(rt.pool, "acme")
            return await get(self, *arguments)

        monkeypatch.setattr(ContentFinder, "get", get_and_suspend)
        await accept(rt, "anna@example.com")
        [job] = await until(
            lambda: rows(rt, "select state, attempts, last_error from jobs.jobs where last_error <> ''")
        )
        assert job == ("pending", 0, SUSPENDED)
        assert receiver.mails == []


async def test_commands_show_suspend_and_resume_a_tenant(settings: Settings) -> None:
    async def said(*arguments: str) -> str:
        done = await mailfold_on(settings, "tenants", *arguments)
        assert done.code == 0, done.err
        return done.out

    await said("add", "acme", "--rate", "5")
    assert "nothing is accepted or sent" in await said("suspend", "acme", "--reason", REASON)
    status = await mailfold_on(settings, "status")
    assert "tenant acme is suspended: its mail waits" in status.out
    shown = await said("show", "acme")
    assert REASON in shown
    assert "per second     5.0" in shown
    await said("add", "acme", "--rate", "7")
    assert REASON in await said("show", "acme"), "a change of its limits does not end a suspension"
    assert "what waited is sent now" in await said("resume", "acme")
    assert "was not suspended" in await said("resume", "acme")
    assert (await mailfold_on(settings, "tenants", "show", "nobody")).code == 1


async def test_mail_that_waits_for_days_is_reported_before_it_is_lost(settings: Settings) -> None:
    async with gateway(settings) as served:
        pool = served.rt.pool
        await admin.suspend_tenant(pool, "acme")
        await ask(
            pool,
            f"{INSERT_JOBS} values ('dispatch', gen_random_uuid(), 0, 'send', 'acme/7', 'pending', 'x')",
        )
        for days, verdicts, expired in ((2, [], 0), (4, ["warn"], 0), (6, ["fail"], 0), (8, ["fail"], 1)):
            await ask(pool, "update jobs.jobs set created_at = now() - %s * interval '1 day'", days)
            findings = [finding async for finding in check_setup(settings)]
            assert [finding.verdict for finding in findings if "after 7 days it is lost" in finding.text] == verdicts
            assert (await admin.get_waiting_mail(pool, "acme")).expired == expired
        assert await served.metric("mailfold_oldest_suspended_mail_seconds") >= 8 * 86_400
        assert "must go out before" in (await mailfold_on(settings, "tenants", "suspend", "acme")).out
        assert "must go out before" in (await mailfold_on(settings, "tenants", "show", "acme")).out
        assert "1 emails waited for too long" in (await mailfold_on(settings, "tenants", "resume", "acme")).out


async def test_tenant_that_does_not_exist_and_reason_that_no_header_could_have_are_refused(settings: Settings) -> None:
    async with gateway(settings) as served:
        for refused in (admin.suspend_tenant, admin.resume_tenant, admin.get_tenant):
            with pytest.raises(NotFound, match="no tenant nobody"):
                await refused(served.rt.pool, "nobody")
        for reason in ("two\nlines", "x" * 201):
            with pytest.raises(Refused):
                await admin.suspend_tenant(served.rt.pool, "acme", reason)
        assert await rows(served.rt, "select suspended_at from admin.tenants") == [(None,)]
