"""Audit that every accepted email of the last day is settled, in flight, dead or dropped; the projector runs it.

Postgres knows each email three times: its id was reserved when it was accepted, the dispatcher has a job for it, the
projector its history. Where these contradict each other, an email is lost, or one of the tables is. The audit walks
through the day's emails in small slices with pauses, so that it costs the same however many there are; a round takes
longer then. Of several projectors, the one that has partition 0 audits.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

from pipeline.errors import RoleStopped
from pipeline.project.metrics import ProjectMetrics
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.partitioner import partition_of_key
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.sleep import sleep_unless
from pipeline.runtime.tasks import run_unless
from projections.history_queries import latest_projected_time, partition_times
from projections.row_changes import REQUEST_EVENT
from projections.sql import SqlQueries
from topics.readings import EmailStatus
from topics.record import Millis
from topics.registry import DAY_MS, SEND_REQUESTS

SQL: Final = SqlQueries(Path(__file__).with_name("audit.sql"))

ROUND_INTERVAL_S: Final = 600.0
"""Seconds between the end of one round and the start of the next."""
OWNER_CHECK_INTERVAL_S: Final = 10.0
"""Seconds between two questions whether this projector audits."""
SLICE_EMAILS: Final = 2000
SLICE_PAUSE_S: Final = 0.5
"""Seconds between two slices. One takes Postgres about 20 ms; a day of a million emails is audited in four minutes."""
SETTLING_MS: Final = 10 * 60 * 1000
"""Milliseconds that an email's facts may take from one process to the next before something is wrong. The clocks of
different machines may differ by less than that."""
LOGGED_IDS: Final = 10

_OPEN_STATES: Final = frozenset({"held", "pending", "attempting", "unknown"})
FATES: Final = ("settled", "in_flight", "dead", "dropped")
UNACCOUNTED: Final = "unaccounted"

logger = get_logger(__name__)

Connection = psycopg.AsyncConnection[Any]


class AuditedEmail(NamedTuple):
    """What Postgres has of one email."""

    email_id: str
    has_request: bool
    """Whether its history has the request."""
    is_listed: bool
    """Whether its history says that it was sent, or that it never will be."""
    status: str
    job_state: str
    """The state of the dispatcher's job; empty if there is none."""
    job_at: Millis | None
    """When the job ended, or was created."""
    recorded_at: Millis
    """When its id was reserved."""


class AuditProgress(NamedTuple):
    """How far the roles have come."""

    folded_to: Mapping[int, Millis]
    """The time of each partition's last projected change."""
    dispatched_to: Mapping[int, int]
    """The first offset of each partition of `send-requests` that the dispatcher has not read."""

    def is_folded(self, email_id: str, at: Millis) -> bool:
        """Return whether what was on the log at this time is projected, as far as later changes show it."""
        if not self.folded_to:
            return False
        partition = partition_of_key(email_id.encode(), len(self.folded_to))
        return self.folded_to.get(partition, 0) > at + SETTLING_MS

    def is_dispatched(self, places: Iterable[str]) -> bool:
        """Return whether the dispatcher has read a request that stands at one of these places."""
        for place in places:
            topic, partition, offset = place.split("/")
            if topic == SEND_REQUESTS.name and int(offset) < self.dispatched_to.get(int(partition), 0):
                return True
        return False


def fate_of(email: AuditedEmail, progress: AuditProgress, places: Collection[str] = ()) -> str:
    """Return what became of an email: one of `FATES`, `UNACCOUNTED`, or "" if it was never accepted.

    ``places``: where its request stands on the log, as far as its history knows.
    """
    if not email.has_request and not email.job_state:
        return ""  # the id was reserved, and the request was never confirmed
    if email.has_request and (fate := _plain_fate(email)):
        return fate
    if email.job_state:
        # The history lacks the request, or the ack that was on the log before the job was done; so it does until the
        # fold and the projector have come so far.
        is_lost = progress.is_folded(email.email_id, max(email.recorded_at, email.job_at or 0))
    else:
        is_lost = progress.is_dispatched(places)
    return UNACCOUNTED if is_lost else "in_flight"


def _plain_fate(email: AuditedEmail) -> str:
    """Return the fate that the job or the history says; "" where neither does."""
    if email.job_state in _OPEN_STATES:
        return "in_flight"
    if email.job_state == "dead":
        return "dead"
    if email.is_listed:
        return "dropped" if email.status == EmailStatus.DROPPED else "settled"
    return ""


class EmailAuditor:
    """Audits round after round and shows the result of the last one."""

    def __init__(self, rt: Runtime, metrics: ProjectMetrics, is_owner: Callable[[], bool]) -> None:
        self._rt = rt
        self._metrics = metrics
        self._is_owner = is_owner

    async def run(self) -> None:
        """Audit until ``rt.stop``, as long as this projector is the one that must."""
        while not self._rt.stop.is_set():
            if not self._is_owner():
                self._metrics.clear_audit()
                await sleep_unless(self._rt.stop, OWNER_CHECK_INTERVAL_S)
                continue
            try:
                is_finished = await run_unless(self._rt.stop, self.audit())
            except RoleStopped:
                return
            except psycopg.Error as error:
                is_finished = False
                logger.warning("emails not audited, retrying", error=type(error).__name__)
            await sleep_unless(self._rt.stop, ROUND_INTERVAL_S if is_finished else OWNER_CHECK_INTERVAL_S)

    async def audit(self) -> bool:
        """Audit the emails of the last day, except those of the last minutes; return whether it came to the end."""
        fates: Counter[str] = Counter()
        lost: list[str] = []
        async with self._rt.pool.connection() as connection:
            until = min(self._rt.clock(), await latest_projected_time(connection)) - SETTLING_MS
        position = (self._rt.clock() - DAY_MS, str(uuid.UUID(int=0)))
        while emails := await self._audit_slice(position, until, fates, lost):
            # Told at once, not at the round's end; what was lost in the last round stays told until then.
            self._metrics.raise_unaccounted(fates[UNACCOUNTED])
            position = (emails[-1].recorded_at, emails[-1].email_id)
            await asyncio.sleep(SLICE_PAUSE_S)
            if not self._is_owner():
                return False
        if lost:
            logger.error("accepted emails unaccounted for", emails=fates[UNACCOUNTED], email_ids=lost[:LOGGED_IDS])
        self._metrics.show_audit({fate: fates[fate] for fate in FATES}, fates[UNACCOUNTED], self._rt.clock())
        return True

    async def _audit_slice(
        self, position: tuple[Millis, str], until: Millis, fates: Counter[str], lost: list[str]
    ) -> Sequence[AuditedEmail]:
        """Add the next emails' fates and the ids of those unaccounted for; return the emails."""
        async with self._rt.pool.connection() as connection:
            progress = await _read_progress(connection)
            values = {"from": position[0], "after": position[1], "until": until, "limit": SLICE_EMAILS}
            rows = await (await connection.execute(SQL["slice"], values)).fetchall()
            emails = [AuditedEmail(*row) for row in rows]
            places = await _request_places(
                connection, [each.email_id for each in emails if each.has_request and not each.job_state]
            )
        for email in emails:
            fate = fate_of(email, progress, places.get(email.email_id, ()))
            if fate:
                fates[fate] += 1
            if fate == UNACCOUNTED and len(lost) < LOGGED_IDS:
                lost.append(email.email_id)
        return emails


async def _read_progress(connection: Connection) -> AuditProgress:
    folded_to = {partition: changed for partition, _, changed in await partition_times(connection)}
    dispatched_to = dict(await (await connection.execute(SQL["progress"])).fetchall())
    return AuditProgress(folded_to, dispatched_to)


async def _request_places(connection: Connection, email_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return where on the log the requests of these emails stand."""
    if not email_ids:
        return {}
    values = {"event_id": REQUEST_EVENT, "email_ids": email_ids}
    return dict(await (await connection.execute(SQL["request_places"], values)).fetchall())
