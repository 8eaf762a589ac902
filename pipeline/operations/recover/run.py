"""Say which case it is, and bring the log and Postgres together again; `mailfold recover` calls it.

The log is the record of everything, and Postgres reads it. Where the log lost something that Postgres has read, the
facts are put back first. Then the readers are moved to where the log and Postgres still agree, an hour earlier for
safety: whatever was accepted since is read, and what is read twice changes nothing. Compacted topics are read from
their beginning: no mark of the last record tells whether they are the ones that were read. Nothing is deleted.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.operations.backup.contents import PLACE_SHIFT
from pipeline.operations.backup.save import SQL as BACKUP
from pipeline.operations.recover.losses import SQL, LogLoss, find_losses
from pipeline.operations.recover.put_back import (
    OVERLAP_MS,
    PutBack,
    count_unlogged,
    find_windows,
    first_offset_after,
    put_back,
)
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.log import discover_partitions, topic_partition
from pipeline.runtime.postgres.leader import hold_command_lock
from topics.registry import EMAIL_CHANGES, SUPPRESSIONS, TEMPLATES, UNCORRELATED_EVENTS

_COMPACTED: Final = {TEMPLATES.name: "move_templates", SUPPRESSIONS.name: "move_suppressions"}
"""The compacted topics, of one partition each, and the statements that move their readers."""


class RecoveryCase(Enum):
    """What was lost, in words for operators."""

    NOTHING = "The log has everything that was read from it into Postgres. There is nothing to recover."
    UNLOGGED = (
        "Decisions about addresses, or templates, that a backup restored are not on the log. They count, but a "
        "database that is made from the log would lack them."
    )
    NO_TENANTS = (
        "Postgres has no tenant: it is new. `mailfold restore` brings back what only Postgres knew; the roles make the "
        "rest from the log. Nothing is changed here."
    )
    SHORT_LOG = (
        "The log ends before what was read from it into Postgres: Kafka was restored to an older moment, or topics "
        "were made anew."
    )
    OTHER_LOG = (
        "The log has other records than were read from it into Postgres: Kafka was restored to an older moment and has "
        "grown since, or this is another cluster, such as a mirror."
    )


PLAN: Final = (
    "If KAFKA_BOOTSTRAP or MAILFOLD_TOPIC_PREFIX names the wrong log, correct that instead, and change nothing.",
    "Else, with --yes: 1. what Postgres knows and the log lost is appended to the log again (what happened to emails, "
    "requests that are not sent yet, decisions about addresses, templates), 2. project and dispatch read the log again "
    "from an hour before it was cut, decisions and templates from the beginning. What is read twice counts "
    "once: nobody gets an email or a conversion again.",
)


class Diagnosis(msgspec.Struct, frozen=True):
    """The case and the places at which the log lacks something."""

    case: RecoveryCase
    losses: list[LogLoss]

    @property
    def has_work(self) -> bool:
        """Return whether `recover` would do something."""
        return self.case not in (RecoveryCase.NOTHING, RecoveryCase.NO_TENANTS)


class Recovery(msgspec.Struct, frozen=True):
    """What was done."""

    put_back: PutBack
    moved: int
    """How many partitions are read again."""


async def diagnose(rt: Runtime) -> Diagnosis:
    """Return what was lost. Raise LogUnavailable."""
    losses = await find_losses(rt.settings, rt.pool)
    if losses:
        is_short = all(loss.is_shorter for loss in losses)
        return Diagnosis(RecoveryCase.SHORT_LOG if is_short else RecoveryCase.OTHER_LOG, losses)
    async with rt.pool.connection() as connection:
        row = await (await connection.execute(SQL["has_tenants"])).fetchone()
    if row is None or not row[0]:
        return Diagnosis(RecoveryCase.NO_TENANTS, [])
    return Diagnosis(RecoveryCase.UNLOGGED if await count_unlogged(rt) else RecoveryCase.NOTHING, [])


async def recover(rt: Runtime) -> Recovery:
    """Put back what the log lost, then move the readers. Safe to repeat, also where it was interrupted.

    The roles may run. Raise Refused if another recovery is under way, LogUnavailable.
    """
    async with hold_command_lock(rt, "recover"):
        losses = await find_losses(rt.settings, rt.pool)
        consumer = create_consumer(rt.settings)
        await start_client(consumer, rt.settings)
        try:
            await _assign(consumer, rt, losses)
            windows = await find_windows(consumer, rt, losses)
            offsets = {
                loss: await _restart_offset(consumer, rt, loss) for loss in losses if loss.topic not in _COMPACTED
            }
            done = await put_back(rt, windows)
            places = list(consumer.assignment())
            beginnings = await consumer.beginning_offsets(places) if losses else {}
            ends = await consumer.end_offsets(places) if losses else {}
        finally:
            await consumer.stop()
        if not losses:
            return Recovery(done, 0)
        await _move_readers(rt, offsets, ends, beginnings)
        return Recovery(done, len(offsets) + len(_COMPACTED))


async def _assign(consumer: AIOKafkaConsumer, rt: Runtime, losses: list[LogLoss]) -> None:
    if losses:
        names = sorted({rt.settings.topic(name) for name in (*_COMPACTED, *(loss.topic for loss in losses))})
        consumer.assign(await discover_partitions(consumer, *names))


async def _restart_offset(consumer: AIOKafkaConsumer, rt: Runtime, loss: LogLoss) -> int:
    """Return where a reader goes on: before everything that came after what it has read."""
    place = topic_partition(loss.topic, loss.partition, rt.settings)
    if loss.last_time is None:
        return int((await consumer.beginning_offsets([place]))[place])
    return await first_offset_after(consumer, place, loss.last_time - OVERLAP_MS)


async def _move_readers(
    rt: Runtime,
    offsets: Mapping[LogLoss, int],
    ends: Mapping[TopicPartition, int],
    beginnings: Mapping[TopicPartition, int],
) -> None:
    """Store the new offsets in one transaction; a reader that is at work notices, and starts again from them."""
    async with rt.pool.connection() as connection, connection.transaction():
        for loss, offset in offsets.items():
            end = ends[topic_partition(loss.topic, loss.partition, rt.settings)]
            values = {"topic": loss.topic, "partition": loss.partition, "offset": offset, "end": end}
            await connection.execute(SQL[_statement(loss)], values)
            if loss.topic == UNCORRELATED_EVENTS.name:
                await connection.execute(SQL["free_places"], {"partition": loss.partition})
        for topic, statement in _COMPACTED.items():
            beginning = beginnings[topic_partition(topic, 0, rt.settings)]
            await connection.execute(SQL[statement], {"topic": topic, "partition": 0, "offset": beginning})
        # Other decisions may have their places on the log now; those that are read take them again.
        await connection.execute(BACKUP["shift_places"], {"shift": PLACE_SHIFT})


def _statement(loss: LogLoss) -> str:
    """Return the name of the statement that moves a reader."""
    if loss.topic == EMAIL_CHANGES.name:
        return "move_projections"
    return "move_jobs" if loss.reader == "dispatch" else "move_correlation"
