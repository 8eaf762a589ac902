"""List, show and replay dead and unknown jobs and the records of `dead-letters`; `mailfold dead` calls it.

A job's id is `queue/email_id/name`; a dead letter's is its position, such as `dead-letters/0/17`.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.admin.actions import OperatorChange
from pipeline.errors import NotFound
from pipeline.jobs.store import SQL, notify_channel
from pipeline.operations.originals import original_record
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.kafka.topic_reader import open_topic_reader
from pipeline.runtime.ports import LogEntry
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.dead_letters import DeadLetter
from topics.ids import event_id
from topics.record import EmailId
from topics.registry import CONVERSION_RESULTS, DEAD_LETTERS, MESSAGE_CONTENTS

QUEUES: Final = ("dispatch", "emit")


@dataclass(frozen=True)
class DeadJob:
    """A dead or unknown job, which an operator has to handle."""

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
        """Return the id that `show` and `replay` take."""
        return f"{self.queue}/{self.email_id}/{self.name}"


@dataclass(frozen=True)
class DeadLetterEntry:
    """A record on `dead-letters`."""

    offset: int
    letter: DeadLetter

    @property
    def id(self) -> str:
        """Return the id that `show` and `replay` take."""
        return f"{DEAD_LETTERS.name}/0/{self.offset}"


async def dead_jobs(
    rt: Runtime, limit: int, tenant: str | None = None, *, queue: str = "", lane: str = ""
) -> list[DeadJob]:
    """Return the newest dead and unknown jobs of one tenant, queue and lane or of all, at most ``limit``."""
    wanted = {"tenant": tenant, "wanted_queue": queue, "wanted_lane": lane}
    return [DeadJob(*row) for row in await _fetch(rt, "list_dead", limit=limit, **wanted)]


async def recent_letters(rt: Runtime, limit: int, offset: int | None = None) -> list[DeadLetterEntry]:
    """Return the last dead letters on the topic, at most ``limit``, or the one at ``offset``."""
    async with open_topic_reader(rt.settings, DEAD_LETTERS) as letters:
        start = max(letters.beginning, letters.end - limit) if offset is None else offset
        stop = letters.end if offset is None else min(letters.end, offset + 1)
        return [DeadLetterEntry(place, letter) async for place, letter in letters.read(start, stop)]


async def find_entry(rt: Runtime, entry_id: str) -> DeadJob | DeadLetterEntry:
    """Return the job or the dead letter with this id. Raise NotFound."""
    queue, stream, name = _split(entry_id)
    if queue == DEAD_LETTERS.name:
        entries = await recent_letters(rt, 1, offset=int(name))
        if entries and entries[0].offset == int(name):
            return entries[0]
        raise NotFound(f"no letter {entry_id}; `mailfold dead list` shows them")
    rows = await _fetch(rt, "show_job", queue=queue, stream=stream, name=name)
    if not rows:
        raise NotFound(f"no job {entry_id}; `mailfold dead list` shows them")
    queue, stream, name, lane, state, attempts, _due, _created, finished, error = rows[0]
    return DeadJob(queue, stream, name, lane, state, attempts, finished, error)


def replay_change(entry: DeadJob | DeadLetterEntry, reason: str) -> OperatorChange:
    """Return what the record of actions says about a replay."""
    if isinstance(entry, DeadJob):
        before = {"state": entry.state, "attempts": entry.attempts}
        tenant = entry.lane.partition("/")[0]
        return OperatorChange("dead.replay", entry.id, tenant, entry.email_id, reason=reason, before=before)
    source = {"source": str(entry.letter.source), "reason": entry.letter.reason, "role": entry.letter.role}
    return OperatorChange("dead.replay", entry.id, reason=reason, before=source)


async def replay(rt: Runtime, entry_id: str | None) -> list[str]:
    """Restart one job, append one dead letter's record again, or restart all jobs (None); return the replayed ids.

    Raise NotFound for a job that is not dead or unknown, and for a dead letter whose record is only partly left.
    """
    if entry_id is None:
        return await _replay_jobs(rt, None, None, None)
    queue, stream, name = _split(entry_id)
    if queue == DEAD_LETTERS.name:
        entry = await find_entry(rt, entry_id)
        assert isinstance(entry, DeadLetterEntry)
        return await _replay_letter(rt, entry)
    replayed = await _replay_jobs(rt, queue, stream, name)
    if not replayed:
        raise NotFound(f"{entry_id} is no dead or unknown job that can be done again; `mailfold dead list` shows them")
    return replayed


async def _replay_letter(rt: Runtime, entry: DeadLetterEntry) -> list[str]:
    letter = entry.letter
    if letter.source.topic == MESSAGE_CONTENTS.name and letter.key is not None:
        # The send request names the offset of its content, so that a content appended again would not be read. The
        # job of the email can be tried again instead.
        return await replay(rt, f"dispatch/{letter.key.decode()}/send")
    if letter.value is None and not letter.cut:
        raise NotFound(f"{entry.id} kept no bytes that could be appended again")
    key, value = await original_record(rt, letter)
    await rt.log.append_raw(letter.source.topic, key, value)
    return [entry.id]


async def _replay_jobs(rt: Runtime, queue: str | None, stream: str | None, name: str | None) -> list[str]:
    jobs = await _fetch(rt, "replayable", queue=queue, stream=stream, name=name)
    results = [_replayed_result(rt, *job) for job in jobs if job[0] == "emit"]
    # The log first: a settlement in the state would otherwise override the restarted job.
    if results:
        await append_all(rt.log, [LogEntry(CONVERSION_RESULTS, result.email_id, result) for result in results])
    replayed = []
    async with rt.pool.connection() as connection:
        for job_queue, job_stream, job_name, *_ in jobs:
            values = {"queue": job_queue, "stream": job_stream, "name": job_name}
            if (await connection.execute(SQL["replay"], values)).rowcount:
                replayed.append(f"{job_queue}/{job_stream}/{job_name}")
                await connection.execute(SQL["wake_followers"], values)
        for each in QUEUES:
            await connection.execute(SQL["notify"], {"channel": notify_channel(each)})
    return replayed


def _replayed_result(rt: Runtime, _queue: str, stream: str, name: str, lane: str, attempts: int) -> ConversionResult:
    """Return the fact that the conversion of a job was replayed; the arguments are a row of `replayable`."""
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


def _split(entry_id: str) -> tuple[str, str, str]:
    """Return queue, stream and name of an id; topic, partition and offset of a dead letter's. Raise NotFound."""
    queue, _, stream_and_name = entry_id.partition("/")
    stream, _, name = stream_and_name.partition("/")
    if queue == DEAD_LETTERS.name and stream == "0" and name.isascii() and name.isdigit():
        return queue, stream, name
    try:
        if queue in QUEUES and name:
            return queue, str(uuid.UUID(stream)), name
    except ValueError:
        pass
    raise NotFound(f"{entry_id} is no id of a dead letter; `mailfold dead list` shows them")


async def _fetch(rt: Runtime, query: str, **values: Any) -> list[tuple[Any, ...]]:
    async with rt.pool.connection() as connection:
        return await (await connection.execute(SQL[query], values)).fetchall()
