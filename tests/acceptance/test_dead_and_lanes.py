"""Run `mailfold dead` and `mailfold lanes` as a person does, on jobs that used up their attempts."""

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.integration.test_emit import destine, emitting, in_state, owe
from tests.support.command import mailfold_on
from tests.support.dispatching import accept, dispatching, provide, request
from tests.support.http_receiver import http_receiver
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from topics.conversions import ConversionOutcome, ConversionWord
from topics.registry import CONVERSION_RESULTS, SEND_REQUESTS


async def mailfold(settings: Settings, *arguments: str) -> tuple[int, str]:
    result = await mailfold_on(settings, *arguments)
    return result.code, result.out + result.err


async def test_dead_conversion_is_listed_shown_and_delivered_after_replay(settings: Settings) -> None:
    quick = settings.model_copy(update={"emit_schedule": (0.05,)})
    async with http_receiver() as receiver, emitting(quick) as rt:
        receiver.answers = [500]
        await destine(rt, receiver.url)
        email_id = await owe(rt, ConversionWord.DELIVERED)
        await in_state(rt, "dead")
        job = f"emit/{email_id}/delivered"
        code, output = await mailfold(quick, "dead", "list")
        assert (code, job in output, "gave up: 500" in output) == (0, True, True)
        code, output = await mailfold(quick, "dead", "show", job)
        assert (code, "acme/7" in output, "mailfold trace" in output) == (0, True, True)
        receiver.answers = [200]
        assert await mailfold(quick, "dead", "replay", job) == (0, f"replayed {job}\n")
        await in_state(rt, "done")
        code, output = await mailfold(quick, "dead", "replay", job)
        assert code == 1
        assert "is no dead or unknown job" in output
    outcomes = [result.outcome for result in await on(quick, CONVERSION_RESULTS)]
    assert outcomes == [
        ConversionOutcome.RETRYING,
        ConversionOutcome.GIVEN_UP,
        ConversionOutcome.REPLAYED,
        ConversionOutcome.DELIVERED,
    ]


async def test_failed_email_and_dead_letter_are_replayed(settings: Settings) -> None:
    quick = settings.model_copy(update={"dispatch_schedule": (0.05,)})
    async with smtp_receiver() as receiver, dispatching(quick) as rt:
        receiver.rcpt["anna@example.com"] = ["450 later"]
        await provide(rt, receiver.port)
        [sent] = await accept(rt, "anna@example.com")
        await until(lambda: _states(rt, "dead"))
        receiver.rcpt.clear()
        assert await mailfold(quick, "dead", "replay", "--all") == (0, f"replayed dispatch/{sent.email_id}/send\n")
        await until(lambda: _states(rt, "done"))
        assert len(receiver.mails) == 1

        await rt.log.append_raw("send-requests", b"k", b"nonsense")
        await until(lambda: _is_listed(quick, "dead-letters/0/0"))
        code, output = await mailfold(quick, "dead", "show", "dead-letters/0/0", "--value")
        assert (code, "undecodable" in output, "nonsense" in output) == (0, True, True)
        assert await mailfold(quick, "dead", "replay", "dead-letters/0/0") == (0, "replayed dead-letters/0/0\n")
        await until(lambda: _is_listed(quick, "dead-letters/0/1"))


async def test_lanes_are_listed_paused_and_resumed(settings: Settings) -> None:
    async with smtp_receiver() as receiver, dispatching(settings) as rt:
        await provide(rt, receiver.port)
        assert (await mailfold(settings, "lanes", "pause", "dispatch", "acme/7", "--reason", "full moon"))[0] == 0
        sent = request("anna@example.com")
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, sent.email_id, sent)])
        await until(lambda: _states(rt, "pending"))
        code, output = await mailfold(settings, "lanes", "list")
        assert (code, "acme/7" in output, "full moon" in output) == (0, True, True)
        assert await mailfold(settings, "lanes", "resume", "dispatch", "acme/7") == (0, "dispatch acme/7 is resumed\n")
        await until(lambda: _states(rt, "dead"))
        code, output = await mailfold(settings, "lanes", "resume", "dispatch", "acme/7")
        assert (code, "has no lane acme/7" in output) == (1, True)
        code, output = await mailfold(settings, "lanes", "pause", "teapot", "acme/7")
        assert (code, "dispatch, emit" in output) == (1, True)


async def test_destination_is_paused_and_resumed_by_its_brand(settings: Settings) -> None:
    async with http_receiver() as receiver, emitting(settings) as rt:
        await destine(rt, receiver.url, brand="*")
        await destine(rt, receiver.url, brand="8")
        await mailfold(settings, "lanes", "pause", "emit", "acme/7")
        await mailfold(settings, "destinations", "pause", "--tenant", "acme", "--brand", "8")
        for brand in "78":
            await owe(rt, ConversionWord.DELIVERED, brand=brand)
        code, output = await mailfold(settings, "destinations", "resume", "--tenant", "acme")
        assert (code, output) == (0, "emit acme/7 is resumed\n"), "brand 8 has its own destination"
        await until(lambda: len(receiver.seen) == 1)
        assert (await mailfold(settings, "destinations", "resume", "--tenant", "acme", "--brand", "8"))[0] == 0
        await in_state(rt, "done")


async def _states(rt: Runtime, state: str) -> bool:
    return await rows(rt, "select distinct state from jobs.jobs") == [(state,)]


async def _is_listed(settings: Settings, entry_id: str) -> bool:
    return entry_id in (await mailfold(settings, "dead", "list"))[1]
