"""What went no further, listed, shown and replayed: dead and unknown jobs, and the topic `dead-letters`.

A job's id is `queue/email_id/name`, a letter's is its place, `dead-letters/0/17`.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.errors import NotFound
from pipeline.jobs.store import SQL, notify_channel
from pipeline.operations.originals import original_record
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import append_all, create_consumer, discover_partitions, topic_partition
from pipeline.runtime.ports import LogEntry
from topics.codec import Undecodable, decode
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.dead_letters import DeadLetter
from topics.ids import event_id
from topics.record import EmailId
from topics.registry import CONVERSION_RESULTS, DEAD_LETTERS, MESSAGE_CONTENTS

QUEUES: Final = ("dispatch", "emit")


@dataclass(frozen=True)
class DeadJob:
    """A job that waits for a person."""

    queue: str
    email_id: str
    name: str
    lane: str
    state: str
    attempts: int
    finished_at: datetime | None
    error: str

    @property
    def id(self) -> str:
        """What `show` and `replay` take."""
        return f"{self.queue}/{self.email_id}/{self.name}"


@dataclass(frozen=True)
class DeadLetterEntry:
    """A record on `dead-letters`."""

    offset: int
    letter: DeadLetter

    @property
    def id(self) -> str:
        """What `show` and `replay` take."""
        return f"{DEAD_LETTERS.name}/0/{self.offset}"


async def dead_jobs(rt: Runtime, limit: int) -> list[DeadJob]:
    """The youngest dead and unknown jobs."""
    return [DeadJob(*row) for row in await _fetch(rt, "list_dead", limit=limit)]


async def recent_letters(rt: Runtime, limit: int, offset: int | None = None) -> list[DeadLetterEntry]:
    """The last letters on the topic, or the one at ``offset``."""
    reader = create_consumer(rt.settings, fetch_max_wait_ms=50)
    await reader.start()
    try:
        place = topic_partition(DEAD_LETTERS.name, 0, rt.settings)
        reader.assign(await discover_partitions(reader, place.topic))
        first, end = (await reader.beginning_offsets([place]))[place], (await reader.end_offsets([place]))[place]
        start = max(first, end - limit) if offset is None else offset
        stop = end if offset is None else min(end, offset + 1)
        reader.seek(place, start)
        found: list[DeadLetterEntry] = []
        while start < stop:
            records = (await reader.getmany(place, timeout_ms=1000)).get(place, [])
            found += [letter for record in records if record.offset < stop and (letter := _letter(record))]
            start = records[-1].offset + 1 if records else stop
    finally:
        await reader.stop()
    return found


async def find_entry(rt: Runtime, wanted: str) -> DeadJob | DeadLetterEntry:
    """One job or letter. Raises NotFound."""
    queue, stream, name = _split(wanted)
    if queue == DEAD_LETTERS.name:
        found = await recent_letters(rt, 1, offset=int(name))
        if found and found[0].offset == int(name):
            return found[0]
        raise NotFound(f"no letter {wanted}; `mailfold dead list` shows them")
    rows = await _fetch(rt, "show_job", queue=queue, stream=stream, name=name)
    if not rows:
        raise NotFound(f"no job {wanted}; `mailfold dead list` shows them")
    queue, stream, name, lane, state, attempts, _due, _created, finished, error = rows[0]
    return DeadJob(queue, stream, name, lane, state, attempts, finished, error)


async def replay(rt: Runtime, wanted: str | None) -> list[str]:
    """Begin anew: one job or letter, or (None) all jobs; the ids of what was begun.

    Raises NotFound for what isn't dead or unknown, and for a letter of which only a part is left.
    """
    if wanted is None:
        return await _replay_jobs(rt, None, None, None)
    queue, stream, name = _split(wanted)
    if queue == DEAD_LETTERS.name:
        found = await find_entry(rt, wanted)
        assert isinstance(found, DeadLetterEntry)
        return await _replay_letter(rt, found)
    begun = await _replay_jobs(rt, queue, stream, name)
    if not begun:
        raise NotFound(f"{wanted} is no dead or unknown job that can be done again; `mailfold dead list` shows them")
    return begun


async def _replay_letter(rt: Runtime, found: DeadLetterEntry) -> list[str]:
    letter = found.letter
    if letter.source.topic == MESSAGE_CONTENTS.name and letter.key is not None:
        # A content can't be appended again where its request points; the email itself can be tried again.
        return await replay(rt, f"dispatch/{letter.key.decode()}/send")
    if letter.value is None and not letter.cut:
        raise NotFound(f"{found.id} kept no bytes that could be appended again")
    key, value = await original_record(rt, letter)
    await rt.log.append_raw(letter.source.topic, key, value)
    return [found.id]


async def _replay_jobs(rt: Runtime, queue: str | None, stream: str | None, name: str | None) -> list[str]:
    jobs = await _fetch(rt, "replayable", queue=queue, stream=stream, name=name)
    told = [_told(rt, *job) for job in jobs if job[0] == "emit"]
    # First the log, so that no settlement that the state knows overrules the job.
    if told:
        await append_all(rt.log, [LogEntry(CONVERSION_RESULTS, result.email_id, result) for result in told])
    begun = []
    async with rt.pool.connection() as connection:
        for job_queue, job_stream, job_name, *_ in jobs:
            values = {"queue": job_queue, "stream": job_stream, "name": job_name}
            if (await connection.execute(SQL["replay"], values)).rowcount:
                begun.append(f"{job_queue}/{job_stream}/{job_name}")
                await connection.execute(SQL["wake_followers"], values)
        for each in QUEUES:
            await connection.execute(SQL["notify"], {"channel": notify_channel(each)})
    return begun


def _told(rt: Runtime, _queue: str, stream: str, name: str, lane: str, attempts: int) -> ConversionResult:
    now = rt.clock()
    return ConversionResult(
        email_id=EmailId(stream),
        event_id=event_id("replay", stream, name, str(attempts)),
        word=ConversionWord(name),
        outcome=ConversionOutcome.REPLAYED,
        occurred_at=now,
        recorded_at=now,
        destination=lane,
        attempt=attempts,
    )


def _split(wanted: str) -> tuple[str, str, str]:
    queue, _, rest = wanted.partition("/")
    stream, _, name = rest.partition("/")
    if queue == DEAD_LETTERS.name and stream == "0" and name.isascii() and name.isdigit():
        return queue, stream, name
    try:
        if queue in QUEUES and name:
            return queue, str(uuid.UUID(stream)), name
    except ValueError:
        pass
    raise NotFound(f"{wanted} is no id of a dead letter; `mailfold dead list` shows them")


def _letter(record: Any) -> DeadLetterEntry | None:
    try:
        return DeadLetterEntry(record.offset, decode(DEAD_LETTERS, record.value))
    except Undecodable:
        return None


async def _fetch(rt: Runtime, query: str, **values: Any) -> list[tuple[Any, ...]]:
    async with rt.pool.connection() as connection:
        return await (await connection.execute(SQL[query], values)).fetchall()
