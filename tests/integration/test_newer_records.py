"""At a record of a newer version each role stops, or lets that record wait, and puts nothing aside."""

import asyncio
import re

import pytest

from pipeline.runtime.environment import environment_of
from pipeline.settings import Settings
from tests.support.command import mailfold
from tests.support.dispatching import FAST, accept, dispatching, in_state, provide, request
from tests.support.projecting import projecting
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from tests.support.working import working
from topics.acks import Acked
from topics.codec import NewerRecord, encode
from topics.registry import DEAD_LETTERS, PROVIDER_ACKS, SEND_REQUESTS, TEMPLATES

REQUEST = request("anna@example.com")
ACK = Acked(email_id=REQUEST.email_id, event_id="e", occurred_at=1, recorded_at=1)
NEWER_ACK = encode(PROVIDER_ACKS, ACK).replace(b"acked/1", b"acked/2")
NEWER_REQUEST = encode(SEND_REQUESTS, REQUEST).replace(b"send-request/1", b"send-request/2")
EXPLANATION = r"provider-acks/\d/0: acked/2 is newer than acked/1, .*; upgrade this process"


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


async def append_newer_ack(settings: Settings) -> None:
    async with working(settings, _idle) as rt:
        await rt.log.append_raw(PROVIDER_ACKS.name, REQUEST.email_id.encode(), NEWER_ACK)


async def _idle(_: object) -> None:
    """Stand for a role."""


async def test_dispatch_stops_at_an_ack_of_a_newer_version(quick: Settings) -> None:
    await append_newer_ack(quick)
    with pytest.raises(NewerRecord, match=f"^{EXPLANATION}$"):
        async with dispatching(quick) as rt:
            await until(lambda: rows(rt, "select 1 from jobs.next_offsets where next_offset > 0"), patience=3)
    assert await on(quick, DEAD_LETTERS) == []


async def test_worker_ends_at_a_fact_of_a_newer_version(settings: Settings) -> None:
    await append_newer_ack(settings)
    ended = await asyncio.to_thread(mailfold, "worker", env=environment_of(settings))
    assert ended.code == 1
    assert re.search(f"^mailfold: {EXPLANATION}$", ended.err, re.MULTILINE), ended.err
    assert await on(settings, DEAD_LETTERS) == []


async def test_job_whose_request_is_newer_waits_and_others_are_sent(quick: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        await provide(rt, receiver.port)
        job = "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload) values"
        values = "('dispatch', %s, 0, 'send', 'acme/7', 'pending', %s) returning 1"
        await rows(rt, f"{job} {values}", REQUEST.email_id, NEWER_REQUEST)
        [sent] = await accept(rt, "bert@example.com")
        await until(lambda: rows(rt, "select 1 from jobs.jobs where stream = %s and state = 'done'", sent.email_id))
        waiting = (
            "select state, attempts from jobs.jobs where last_error like 'send-request/2 is newer%%' and stream = %s"
        )
        await until(lambda: rows(rt, waiting, REQUEST.email_id))
        assert await rows(rt, waiting, REQUEST.email_id) == [("pending", 0)]
        # A newer dispatcher knows the version.
        today = "update jobs.jobs set payload = %s, due_at = now() where stream = %s returning 1"
        await rows(rt, today, encode(SEND_REQUESTS, REQUEST), REQUEST.email_id)
        await in_state(rt, "done", "dead")
    assert len(receiver.mails) == 1, "this request names no content"


async def test_projection_of_templates_halts_at_a_newer_version(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: list[str] = []

    def halted() -> list[str]:
        logged.extend(capsys.readouterr().err.splitlines())
        return [line for line in logged if "projection halted" in line]

    async with projecting(settings) as rt:
        await rt.log.append_raw(TEMPLATES.name, b"k", b'{"type":"template/2"}')
        [line] = await until(halted)
        assert "templates/0/0: template/2 is newer than template/1" in line
    assert await on(settings, DEAD_LETTERS) == []
