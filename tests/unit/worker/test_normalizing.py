"""Slow webhooks are normalized in processes with limits; small ones continue meanwhile, and offsets stay in order."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import pytest
import uvloop

from pipeline.errors import LogUnavailable, RecoverableError
from pipeline.gateway.smtp.envelope import mail_record
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.settings import Settings
from pipeline.webhooks.normalize import EncodedRecord, normalized_records
from pipeline.webhooks.token_readers import token_readers
from pipeline.worker.agents import Normalizer
from pipeline.worker.fold_batch import RecordBatch
from pipeline.worker.normalizing import backlog as module
from pipeline.worker.normalizing.backlog import NormalizingBacklog
from pipeline.worker.normalizing.pool import NormalizerPool
from pipeline.worker.normalizing.wire import NormalizerSettings
from tests.conftest import RING, SECRET
from tests.support.echoes import echoed
from tests.support.inbound import EMAIL_ID, bounce, verp
from topics.codec import NewerRecord, decode, encode
from topics.record import LogPosition
from topics.registry import DEAD_LETTERS, PROVIDER_WEBHOOKS
from topics.webhooks import RawWebhook

TERMS = NormalizerSettings((SECRET,), 30.0, 2 * 1024**3)
NOW = 9


class Record(NamedTuple):
    """A record as a consumer gives it."""

    offset: int
    value: bytes
    key: bytes | None = None


def webhook(events: int) -> bytes:
    records = [
        {"event": "open", "timestamp": number, "sg_event_id": str(number), **echoed(EMAIL_ID)}
        for number in range(events)
    ]
    return encode(
        PROVIDER_WEBHOOKS,
        RawWebhook(
            webhook_id="w",
            provider="main",
            kind="sendgrid",
            received_at=5,
            headers=(),
            body=json.dumps(records).encode(),
        ),
    )


MAIL = encode(PROVIDER_WEBHOOKS, mail_record(bounce(verp()), 5, to=verp(), sender="<>"))
LARGE = webhook(4_500)


def found(value: bytes, offset: int = 0) -> ConsumedRecord:
    place = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=0, offset=offset)
    return ConsumedRecord(PROVIDER_WEBHOOKS, place, None, value)


async def pooled(pool: NormalizerPool, *values: bytes) -> list[list[EncodedRecord]]:
    try:
        return await asyncio.gather(*(pool.normalize(found(value)) for value in values))
    finally:
        await pool.close()


def reasons(records: Sequence[EncodedRecord]) -> list[str]:
    return [decode(DEAD_LETTERS, output.value).reason for output in records if output.topic == DEAD_LETTERS.name]


async def test_a_process_says_what_the_worker_itself_would_say() -> None:
    values = [MAIL, webhook(2), b"\xc1", webhook(0)]
    records = await pooled(NormalizerPool(TERMS, lambda: NOW), *values)
    assert records == [normalized_records(found(value), token_readers(RING), NOW) for value in values]
    assert [output.topic for output in records[0]] == ["delivery-events"]


async def test_webhook_of_a_newer_version_stops_the_worker_and_is_no_dead_letter() -> None:
    newer = webhook(2).replace(b"raw-webhook/1", b"raw-webhook/2")
    with pytest.raises(NewerRecord, match=r"^provider-webhooks/0/0: raw-webhook/2 is newer"):
        normalized_records(found(newer), token_readers(RING), NOW)
    with pytest.raises(NewerRecord, match=r"^provider-webhooks/0/0: raw-webhook/2 is newer"):
        await pooled(NormalizerPool(TERMS, lambda: NOW), newer)


async def test_an_item_out_of_time_is_a_dead_letter_and_others_are_told() -> None:
    pool = NormalizerPool(NormalizerSettings((SECRET,), 0.05, 2 * 1024**3), lambda: NOW)
    late, mail, again = await pooled(pool, LARGE, MAIL, LARGE)
    for records in (late, again):
        [letter] = [decode(DEAD_LETTERS, output.value) for output in records]
        assert (letter.reason, letter.error) == ("too-long", "took more than 0.05 s of processor time")
        assert (letter.value, letter.source) == (LARGE, found(LARGE).place)
    assert [output.topic for output in mail] == ["delivery-events"]


def child(body: str) -> list[str]:
    """A program in the place of the normalizing process: ready, then what ``body`` does with each frame."""
    program = """
        import os, signal, sys, time
        read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
        frame = lambda body: len(body).to_bytes(4, "big") + body
        take = lambda: read(int.from_bytes(read(4) or sys.exit(), "big"))
        take()
        flush = sys.stdout.flush
        write(frame(b"\\xc3")); flush()
        while job := take():
    """
    return [sys.executable, "-c", textwrap.dedent(program) + textwrap.indent(textwrap.dedent(body), "    ")]


@pytest.mark.parametrize(
    "body",
    ["os._exit(3)", 'write(b"\\xff\\xff\\xff\\xff"); flush()', "write(frame(b'x')); flush()"],
)
async def test_an_item_whose_process_dies_twice_is_a_dead_letter(body: str) -> None:
    [records] = await pooled(NormalizerPool(TERMS, lambda: NOW, child(body)), MAIL)
    assert reasons(records) == ["too-long"]


async def test_an_item_is_tried_again_where_its_process_was_killed_from_outside(tmp_path: Any) -> None:
    body = f"""
        if not os.path.exists({str(tmp_path / "once")!r}):
            open({str(tmp_path / "once")!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        write(frame(b"\\x90")); flush()
    """
    assert await pooled(NormalizerPool(TERMS, lambda: NOW, child(body)), MAIL) == [[]]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("noticed", [True, False])
def test_item_is_told_although_all_idle_processes_were_killed(loop_factory: Any, noticed: bool) -> None:
    async def killed_while_idle() -> list[EncodedRecord]:
        pool = NormalizerPool(TERMS, lambda: NOW)
        try:
            await asyncio.gather(*(pool.normalize(found(MAIL)) for _ in range(2)))
            for process in pool._idle:
                os.kill(process._process.pid, signal.SIGKILL)
            if noticed:
                await asyncio.gather(*(process._process.wait() for process in pool._idle))
            return await pool.normalize(found(MAIL))
        finally:
            await pool.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        records = runner.run(killed_while_idle())
    assert [output.topic for output in records] == ["delivery-events"]


async def test_signals_to_a_whole_group_end_no_process() -> None:
    pool = NormalizerPool(TERMS, lambda: NOW)
    try:
        await pool.normalize(found(MAIL))
        [before] = pool._idle
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(before._process.pid, number)
        assert [output.topic for output in await pool.normalize(found(MAIL))] == ["delivery-events"]
        assert pool._idle == [before]
    finally:
        await pool.close()
    assert before._process.returncode == 0, "it ends with the worker's end of the pipe"


async def test_program_that_cannot_be_run_is_recoverable() -> None:
    with pytest.raises(RecoverableError, match="can be started"):
        await pooled(NormalizerPool(TERMS, lambda: NOW, ["/nowhere"]), MAIL)


async def test_a_process_that_does_not_start_ends_the_worker_not_the_item() -> None:
    with pytest.raises(RecoverableError, match="does not start"):
        await pooled(NormalizerPool(TERMS, lambda: NOW, [sys.executable, "-c", ""]), MAIL)


async def test_processes_are_few_and_used_again() -> None:
    body = """
        pid = str(os.getpid()).encode()
        write(frame(b"\\x91\\x93\\xa1t\\xc0\\xc4" + bytes([len(pid)]) + pid)); flush()
    """
    records = await pooled(NormalizerPool(TERMS, lambda: NOW, child(body), size=2), *[MAIL] * 12)
    assert len({output.value for [output] in records}) <= 2


# ── Runs of them ────────────────────────────────────────────────────────────────────────────────────


class Bench:
    """A backlog whose heavy records are done when the test says so."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.appended: list[EncodedRecord] = []
        self.finished: list[str] = []
        self.failure: BaseException | None = None
        self.unavailable = False

    async def heavy(self, found: ConsumedRecord) -> list[EncodedRecord]:
        await self.gates.setdefault(found.place.offset, asyncio.Event()).wait()
        return [EncodedRecord("heavy", None, str(found.place.offset).encode())]

    async def append(self, records: Sequence[EncodedRecord]) -> None:
        if self.unavailable:
            raise LogUnavailable
        self.appended += records

    async def fail(self, error: BaseException) -> None:
        self.failure = error

    def backlog(self) -> NormalizingBacklog:
        normalizer = Normalizer(lambda: NOW, token_readers(RING), self.heavy)
        return NormalizingBacklog(normalizer, self.append, self.fail, SkippedRecords(Settings()))

    def run(self, name: str, *values: bytes, first: int = 0) -> tuple[RecordBatch, Callable[[], None]]:
        records = [Record(first + number, value) for number, value in enumerate(values)]
        return RecordBatch(PROVIDER_WEBHOOKS, 0, records), lambda: self.finished.append(name)

    def topics(self) -> list[str]:
        return [output.topic for output in self.appended]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_slow_mail_holds_up_no_event_and_no_run_but_their_offsets() -> None:
    bench = Bench()
    async with bench.backlog() as backlog:
        await backlog.add(*bench.run("first", MAIL, webhook(1)))
        await backlog.add(*bench.run("second", webhook(1), first=10))
        await settled()
        assert (bench.topics(), bench.finished) == (["delivery-events"] * 2, [])
        bench.gates[0].set()
        await settled()
        assert (bench.topics(), bench.finished) == (["delivery-events"] * 2 + ["heavy"], ["first", "second"])
    assert bench.failure is None


async def test_a_run_is_finished_only_when_the_log_has_all_of_it() -> None:
    bench = Bench()
    async with bench.backlog() as backlog:
        await backlog.add(*bench.run("first", MAIL))
        await settled()
        bench.unavailable = True
        bench.gates[0].set()
        await settled()
    assert bench.finished == []
    assert isinstance(bench.failure, LogUnavailable)


@pytest.mark.parametrize(("limit", "most"), [("MAX_HEAVY_ITEMS", 2), ("MAX_HEAVY_BYTES", 2 * len(MAIL) - 1)])
async def test_no_more_runs_are_begun_than_there_is_room_for(
    limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, most)
    bench = Bench()

    async def feed(add: Callable[..., Awaitable[None]]) -> None:
        for number in range(4):
            await add(*bench.run(str(number), MAIL, first=number))

    async with bench.backlog() as backlog:
        feeding = asyncio.create_task(feed(backlog.add))
        await settled()
        assert sorted(bench.gates) == [0, 1]
        bench.gates[0].set()
        await settled()
        assert sorted(bench.gates) == [0, 1, 2]
        for number in range(4):
            bench.gates.setdefault(number, asyncio.Event()).set()
        await feeding
        await settled()
    assert bench.finished == ["0", "1", "2", "3"]


async def test_the_event_loop_has_its_turns_while_many_small_webhooks_are_told() -> None:
    bench = Bench()
    turns = 0

    async def beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(beside())
    values = [webhook(20)] * 200
    async with bench.backlog() as backlog:
        await backlog.add(*bench.run("first", *values))
    task.cancel()
    assert turns >= sum(map(len, values)) // module.SLICE_BYTES
