"""The worker as a process, fed with facts; and an oracle: a plain fold of what the topics hold."""

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from pipeline.runtime.kafka import append_all, open_kafka_log
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings, environment_of
from pipeline.worker.fold import evolve
from tests.support.caught_up import CaughtUp
from tests.support.command import clean_environment
from tests.support.seeing import on
from topics.acks import Acked, Deferred
from topics.changes import Fact, Tick
from topics.codec import Undecodable, decode
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import DeliveryEvent, EventKind
from topics.join import merge
from topics.record import EmailId, LogPosition
from topics.registry import (
    CONVERSION_RESULTS,
    DEAD_LETTERS,
    DELIVERY_EVENTS,
    EMAIL_CHANGES,
    EMAIL_STATES,
    FACT_TOPICS,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    SEND_REQUESTS,
    Topic,
)
from topics.requests import SendRequest
from topics.states import EmailState

NOW = 1_750_000_000_000
FACT_TOPIC_NAMES = tuple(topic.name for topic in FACT_TOPICS)


class Worker:
    """One `mailfold worker`; started again when it crashes, as its supervisor would."""

    def __init__(self, settings: Settings, folder: Path, **env: str) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self.exits: list[int] = []
        # Facts are years old here, and the oracle forgets nothing.
        mine = settings.model_copy(update={"data_dir": folder, "quiet_days": 36_500.0})
        self._env = clean_environment(**(environment_of(mine) | env))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "pipeline", "worker"]
            self._process = subprocess.Popen(command, env=self._env, stdout=output, stderr=subprocess.STDOUT)

    def restart_if_ended(self) -> None:
        if self.process.poll() is not None:
            self.exits.append(self.process.returncode)
            self.start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; the exit code. Raises TimeoutExpired after the ten seconds that are promised."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


@contextlib.asynccontextmanager
async def supervised(*workers: Worker) -> AsyncIterator[None]:
    """Start workers that have crashed again, until the block ends."""

    async def watch() -> None:
        while True:
            for worker in workers:
                worker.restart_if_ended()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def life(dice: random.Random) -> list[LogEntry]:
    """One email's facts, on all four topics, with repeats."""
    email_id = EmailId(str(uuid.UUID(int=dice.getrandbits(128))))
    clock: dict[str, Any] = {
        "email_id": email_id,
        "occurred_at": NOW + dice.randrange(1000),
        "recorded_at": NOW + dice.randrange(1000),
    }
    request = SendRequest(
        email_id=email_id,
        message_id=email_id,
        tenant="t",
        dialect="fasttrack",
        brand="1",
        recipient="a@example.test",
        recorded_at=NOW,
        activity=msgspec.Raw(b'{"id": 123456789012345678901234567890}'),
    )
    told = [
        LogEntry(SEND_REQUESTS, email_id, request),
        LogEntry(PROVIDER_ACKS, email_id, Deferred(event_id="try", provider="p", next_attempt_at=NOW, **clock)),
        LogEntry(PROVIDER_ACKS, email_id, Acked(event_id="ack", provider="p", provider_message_id="7", **clock)),
        *(
            LogEntry(DELIVERY_EVENTS, email_id, DeliveryEvent(event_id=f"e{number}", kind=kind, provider="p", **clock))
            for number, kind in enumerate(dice.choices(list(EventKind), k=4))
        ),
        LogEntry(
            CONVERSION_RESULTS,
            email_id,
            ConversionResult(
                event_id="c",
                word=ConversionWord.OPEN,
                outcome=ConversionOutcome.DELIVERED,
                destination="d",
                attempt=1,
                **clock,
            ),
        ),
    ]
    return told + dice.choices(told, k=2)


def lives(count: int, seed: int) -> list[LogEntry]:
    """Many emails' facts, shuffled together: a key's facts lie far apart."""
    dice = random.Random(seed)
    entries = [entry for _ in range(count) for entry in life(dice)]
    dice.shuffle(entries)
    return entries


async def feed(settings: Settings, entries: Sequence[LogEntry], pieces: int = 1) -> None:
    """Append in so many pieces, so that the worker's batches differ."""
    async with open_kafka_log(settings) as log:
        size = -(-len(entries) // pieces)
        for start in range(0, len(entries), size):
            await append_all(log, entries[start : start + size], within=30)


async def append_raw(settings: Settings, topic: Topic, key: bytes | None, *values: bytes | None) -> None:
    """Bytes as somebody else might write them."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    try:
        for value in values:
            await producer.send(settings.topic(topic.name), value, key=key)
    finally:
        await producer.stop()


async def dump(settings: Settings, topic: Topic) -> list[tuple[LogPosition, bytes | None, bytes | None]]:
    """All that lies on a topic: place, key, value."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, enable_auto_commit=False, isolation_level="read_committed"
    )
    await consumer.start()
    try:
        count = 1 if topic.has_one_partition else settings.partitions
        tps = [TopicPartition(settings.topic(topic.name), number) for number in range(count)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends, found = await consumer.end_offsets(tps), []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                for record in records:
                    place = LogPosition(topic=topic.name, partition=tp.partition, offset=record.offset)
                    found.append((place, record.key, record.value))
    finally:
        await consumer.stop()
    return found


async def facts_on(settings: Settings) -> dict[LogPosition, Fact]:
    """Every decodable fact by its place."""
    found: dict[LogPosition, Fact] = {}
    for topic in FACT_TOPICS:
        for place, key, value in await dump(settings, topic):
            with contextlib.suppress(Undecodable):
                fact: Fact = decode(topic, value)
                if key == fact.email_id.encode():
                    found[place] = fact
    return found


def plain_fold(facts: dict[LogPosition, Fact]) -> dict[str, EmailState]:
    """The oracle: every fact, one after the other, nothing else."""
    states: dict[str, EmailState] = {}
    for fact in facts.values():
        states[fact.email_id] = evolve(states.get(fact.email_id), fact)
    return states


async def assert_folded(settings: Settings) -> dict[str, EmailState]:
    """The group has committed the ends, and states and changes are a plain fold of the facts; the states."""
    expected = await assert_told(settings)
    stored = await dump(settings, EMAIL_STATES)
    last = {(key or b"").decode(): decode(EMAIL_STATES, value) for _, key, value in stored}
    assert len(last) == len(expected)
    assert {key for key in expected if last.get(key) != expected[key]} == set()
    return expected


async def assert_told(settings: Settings) -> dict[str, EmailState]:
    """The group has committed the ends, and the changes tell every fact and, joined, a plain fold; its states."""
    await CaughtUp(settings).group("mailfold", *FACT_TOPIC_NAMES, PROVIDER_WEBHOOKS.name, patience=60)
    facts = await facts_on(settings)
    expected = plain_fold(facts)
    await _assert_changes(settings, facts, expected)
    return expected


async def _assert_changes(settings: Settings, facts: dict[LogPosition, Fact], expected: dict[str, EmailState]) -> None:
    told: dict[LogPosition, Fact] = {}
    joined: dict[str, EmailState] = {}
    for place, key, value in await dump(settings, EMAIL_CHANGES):
        change = decode(EMAIL_CHANGES, value)
        if isinstance(change, Tick):  # the projector's: what time it is, nothing that changed
            continue
        assert key == change.email_id.encode()
        # A fact's partition is its state's and its change's.
        assert {applied.place.partition for applied in change.facts} == {place.partition}
        told |= {applied.place: applied.fact for applied in change.facts}
        known = joined.get(change.email_id)
        joined[change.email_id] = change.state if known is None else merge(known, change.state)
    assert told == facts
    assert joined == expected


async def committed_something(settings: Settings) -> bool:
    """Whether the worker has finished anything yet."""
    async with in_its_place(settings) as consumer:
        tps = [TopicPartition(settings.topic(name), 0) for name in FACT_TOPIC_NAMES]
        return any([await consumer.committed(tp) for tp in tps])


@contextlib.asynccontextmanager
async def in_its_place(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that reads and writes the offsets of the worker's group."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=f"{settings.topic_prefix}mailfold",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def dead_letters(settings: Settings) -> list[Any]:
    """What went no further."""
    return await on(settings, DEAD_LETTERS)
