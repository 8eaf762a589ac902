"""Run the worker as a process, feed it facts, and compare its results with a plain fold of the facts on the topics."""

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

from pipeline.runtime.environment import environment_of
from pipeline.runtime.kafka.log import append_all, open_kafka_log
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
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
    """A process `mailfold worker`, which a test can kill and restart as its supervisor would."""

    def __init__(self, settings: Settings, folder: Path, **env: str) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self.exits: list[int] = []
        # The facts of these tests are years old, and the plain fold never expires a state.
        own = settings.model_copy(update={"data_dir": folder, "quiet_days": 36_500.0})
        self._env = clean_environment(**(environment_of(own) | env))
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
        """Send SIGTERM and return the exit code. Raise TimeoutExpired after the ten seconds that a role may take."""
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
    """Restart workers that have crashed, until the end of the block."""

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
    """Return one email's facts, on all four topics, with repeats."""
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
    entries = [
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
    return entries + dice.choices(entries, k=2)


def lives(count: int, seed: int) -> list[LogEntry]:
    """Return many emails' facts, shuffled together, so that those of one email are far apart."""
    dice = random.Random(seed)
    entries = [entry for _ in range(count) for entry in life(dice)]
    dice.shuffle(entries)
    return entries


async def feed(settings: Settings, entries: Sequence[LogEntry], pieces: int = 1) -> None:
    """Append the entries in ``pieces`` calls, so that the worker's batches differ."""
    async with open_kafka_log(settings) as log:
        size = -(-len(entries) // pieces)
        for start in range(0, len(entries), size):
            await append_all(log, entries[start : start + size], within=30)


async def append_raw(settings: Settings, topic: Topic, key: bytes | None, *values: bytes | None) -> None:
    """Append records of any bytes, as another program might."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    try:
        for value in values:
            await producer.send(settings.topic(topic.name), value, key=key)
    finally:
        await producer.stop()


async def dump(settings: Settings, topic: Topic) -> list[tuple[LogPosition, bytes | None, bytes | None]]:
    """Return all records of a topic, each with its place, key and value."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, enable_auto_commit=False, isolation_level="read_committed"
    )
    await consumer.start()
    try:
        count = 1 if topic.has_one_partition else settings.partitions
        tps = [TopicPartition(settings.topic(topic.name), number) for number in range(count)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends, dumped = await consumer.end_offsets(tps), []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                for record in records:
                    place = LogPosition(topic=topic.name, partition=tp.partition, offset=record.offset)
                    dumped.append((place, record.key, record.value))
    finally:
        await consumer.stop()
    return dumped


async def facts_on(settings: Settings) -> dict[LogPosition, Fact]:
    """Return every decodable fact by its place."""
    facts: dict[LogPosition, Fact] = {}
    for topic in FACT_TOPICS:
        for place, key, value in await dump(settings, topic):
            with contextlib.suppress(Undecodable):
                fact: Fact = decode(topic, value)
                if key == fact.email_id.encode():
                    facts[place] = fact
    return facts


def plain_fold(facts: dict[LogPosition, Fact]) -> dict[str, EmailState]:
    """Return the states that result from folding the facts one by one, to compare the worker's with."""
    states: dict[str, EmailState] = {}
    for fact in facts.values():
        states[fact.email_id] = evolve(states.get(fact.email_id), fact)
    return states


async def assert_folded(settings: Settings) -> dict[str, EmailState]:
    """Assert that the worker read to the end, and that its states and changes are a plain fold; return the states."""
    expected = await assert_changes(settings)
    stored = await dump(settings, EMAIL_STATES)
    last = {(key or b"").decode(): decode(EMAIL_STATES, value) for _, key, value in stored}
    assert len(last) == len(expected)
    assert {key for key in expected if last.get(key) != expected[key]} == set()
    return expected


async def assert_changes(settings: Settings) -> dict[str, EmailState]:
    """Assert that the worker read to the end, and that its changes have every fact and join to a plain fold.

    Return the states of that fold.
    """
    await CaughtUp(settings).group("mailfold", *FACT_TOPIC_NAMES, PROVIDER_WEBHOOKS.name, patience=60)
    facts = await facts_on(settings)
    expected = plain_fold(facts)
    await _assert_changes(settings, facts, expected)
    return expected


async def _assert_changes(settings: Settings, facts: dict[LogPosition, Fact], expected: dict[str, EmailState]) -> None:
    applied_facts: dict[LogPosition, Fact] = {}
    joined: dict[str, EmailState] = {}
    for place, key, value in await dump(settings, EMAIL_CHANGES):
        change = decode(EMAIL_CHANGES, value)
        if isinstance(change, Tick):  # the projector's clock, which changes no email
            continue
        assert key == change.email_id.encode()
        # A fact, its state and its change have the same partition.
        assert {applied.place.partition for applied in change.facts} == {place.partition}
        applied_facts |= {applied.place: applied.fact for applied in change.facts}
        earlier = joined.get(change.email_id)
        joined[change.email_id] = change.state if earlier is None else merge(earlier, change.state)
    assert applied_facts == facts
    assert joined == expected


async def committed_something(settings: Settings) -> bool:
    """Return whether the worker has committed an offset."""
    async with worker_group_consumer(settings) as consumer:
        tps = [TopicPartition(settings.topic(name), 0) for name in FACT_TOPIC_NAMES]
        return any([await consumer.committed(tp) for tp in tps])


@contextlib.asynccontextmanager
async def worker_group_consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer that reads and writes the offsets of the worker's group."""
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
    """Return the dead letters."""
    return await on(settings, DEAD_LETTERS)
