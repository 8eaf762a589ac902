"""A draft in, a version on the log out; and the log's versions in, rows of Postgres out.

Pushing is like taking a request: reserve, append, and only then it is there. The projector follows
the topic beside its own, so that there's one role less to run.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from psycopg_pool import PoolTimeout

from pipeline.bootstrap import Runtime
from pipeline.errors import Recoverable
from pipeline.kafka import append_all, consumer, partition_of
from pipeline.ports import Entry, Log
from projections import templates
from topics.codec import Undecodable, decode
from topics.dead_letters import DeadLetter
from topics.record import Place
from topics.registry import DEAD_LETTERS, TEMPLATES
from topics.templates import Template

VISIBLE_S: Final = 3.0
"""A push waits so long for the projector, so that who sends next is sent what was pushed."""
_BREATH: Final = 1.0
_GONE: Final = (KafkaError, psycopg.OperationalError, PoolTimeout, Recoverable)

logger = logging.getLogger(__name__)


async def push(rt: Runtime, log: Log, draft: Template) -> tuple[Template, bool]:
    """The version that the draft became, and whether it can be used already. Raises LogUnavailable."""
    async with rt.pool.connection() as connection:
        version = await templates.reserve(connection, draft.template_id, draft.hash)
    made = msgspec.structs.replace(draft, version=version, recorded_at=rt.clock())
    if await _is_there(rt, made):
        return made, True
    await append_all(log, [Entry(TEMPLATES, made.key, made)])
    deadline = asyncio.get_running_loop().time() + VISIBLE_S
    while not (there := await _is_there(rt, made)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    return made, there


async def _is_there(rt: Runtime, template: Template) -> bool:
    async with rt.pool.connection() as connection:
        return await templates.is_projected(connection, template)


async def follow(rt: Runtime) -> None:
    """Project the topic until ``rt.stop``; what goes away is waited for."""
    while not rt.stop.is_set():
        try:
            await _follow(rt)
        except _GONE as error:
            logger.warning("templates: %s; beginning again", type(error).__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(rt.stop.wait(), _BREATH)


async def _follow(rt: Runtime) -> None:
    reader = consumer(rt.settings, fetch_max_wait_ms=250)
    try:
        await reader.start()
        await _read(rt, reader)
    finally:
        await reader.stop()


async def _read(rt: Runtime, reader: AIOKafkaConsumer) -> None:
    """Read on until stopped, or until another projector was faster."""
    partition = partition_of(TEMPLATES.name, templates.PARTITION, rt.settings)
    reader.assign([partition])
    beginning = (await reader.beginning_offsets([partition]))[partition]
    async with rt.pool.connection() as connection:
        at = await templates.next_offset(connection, beginning)
    reader.seek(partition, at)
    while not rt.stop.is_set():
        records = (await reader.getmany(partition, timeout_ms=250, max_records=20)).get(partition, [])
        if not records:
            continue
        found = await _decoded(rt, records)
        async with rt.pool.connection() as connection:
            if not await templates.project(connection, at, records[-1].offset + 1, found):
                return
        at = records[-1].offset + 1


async def _decoded(rt: Runtime, records: list[Any]) -> list[Template]:
    found: list[Template] = []
    for record in records:
        try:
            found.append(decode(TEMPLATES, record.value))
        except Undecodable as error:
            letter = DeadLetter(
                source=Place(topic=TEMPLATES.name, partition=record.partition, offset=record.offset),
                recorded_at=rt.clock(),
                reason="undecodable",
                error=str(error)[:1000],
                role="project",
                key=record.key,
                value=record.value,
            )
            await append_all(rt.log, [Entry(DEAD_LETTERS, None, letter)])
    return found
