"""Delete a tenant: refuse while anything is owed, then remove what Postgres has of it.

`mailfold tenants delete` calls it. The log keeps its records until they expire. A row in `admin.deleted_tenants` makes
the projections leave out what is the tenant's, also in a rebuild, and the dispatcher ignore its requests. Once that row
is there, each step may be repeated: a deletion that was interrupted is ended by the same command.
"""

import asyncio
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql

from pipeline import admin
from pipeline.errors import Refused
from pipeline.operations.rebuild import REBUILD_LOCK_ID
from pipeline.operations.renormalize.preconditions import CORRELATION, CatchUpStages, wait_until_caught_up
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.conninfo import session_conninfo
from pipeline.runtime.leader import hold_command_lock
from projections.locks import session_lock
from projections.sink import SWAP_LOCK
from projections.sql import SqlQueries
from topics.registry import (
    EMAIL_CHANGES,
    EMAIL_STATES,
    FACT_TOPICS,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    SEND_REQUESTS,
    TOPICS,
    UNCORRELATED_EVENTS,
)

SQL: Final = SqlQueries(Path(__file__).with_name("tenant_deletion.sql"))
PAGE_EMAILS: Final = 2_000
"""Emails of the history that one statement looks at; those of the tenant are deleted in one transaction."""
BATCH_ROWS: Final = 1_000
"""Rows of other tables that one transaction deletes."""
SEGMENT_DAYS: Final = 7
"""Days for which Kafka may keep a record longer than a topic's retention, because it deletes whole segments."""
STAGES: Final[CatchUpStages] = (
    ("dispatch", (SEND_REQUESTS, PROVIDER_ACKS)),
    ("worker", (PROVIDER_WEBHOOKS,)),
    (CORRELATION, (PROVIDER_ACKS, UNCORRELATED_EVENTS)),
    ("worker", FACT_TOPICS),
    ("project", (EMAIL_CHANGES,)),
)
"""What the roles must have read before it is known what is owed."""
CONFIGURATION_STEPS: Final = (
    *("remember", "delete_keys", "delete_destinations", "delete_domains", "delete_brands", "delete_tenant"),
)
"""The statements that delete what operators set up for a tenant, in an order in which foreign keys hold."""
_JOB_WORDS: Final = {"dispatch": "emails to send", "emit": "conversions"}

Connection = psycopg.AsyncConnection[Any]


class RemainingRecords(msgspec.Struct, frozen=True):
    """A topic that still has records of the tenant, and for how long."""

    topic: str
    until: str


class TenantDeletion(msgspec.Struct, frozen=True):
    """What a deletion removed, and what it could not."""

    emails: int
    rows: Mapping[str, int]
    """Other rows, by table."""
    remaining: tuple[RemainingRecords, ...]


async def require_nothing_owed(rt: Runtime, tenant: str, *, discard: bool = False) -> None:
    """Raise Refused while the tenant may send, or anything is owed to it or by it.

    With ``discard``, what is owed is no reason. Waits until every process knows of the suspension and the roles have
    read the log. Return at once where the deletion has begun already. Raise NotFound.
    """
    if await _is_begun(rt, tenant):
        return
    summary = await admin.get_tenant(rt.pool, tenant)
    if summary.suspended_at is None:
        raise Refused(f"tenant {tenant} may still send; first: mailfold tenants suspend {tenant}")
    known_in = summary.suspended_at + timedelta(seconds=admin.SUSPENSION_DELAY_S) - datetime.now(UTC)
    await asyncio.sleep(min(max(known_in.total_seconds(), 0), admin.SUSPENSION_DELAY_S))
    await wait_until_caught_up(rt, stages=STAGES)
    jobs = await admin.open_jobs(rt.pool, tenant)
    if jobs and not discard:
        owed = [f"{count} {_JOB_WORDS[queue]} ({state})" for (queue, state), count in jobs.items()]
        raise Refused(
            f"tenant {tenant} is owed something: {', '.join(owed)}. Revoke its keys and resume it, so that "
            "it goes out, and replay what is dead (`mailfold dead list`); or give all of it up with --discard"
        )


async def delete_tenant(rt: Runtime, tenant: str) -> TenantDeletion:
    """Delete a suspended tenant and return what was removed and what remains. Raise NotFound and Refused.

    Call :func:`require_nothing_owed` before.
    """
    async with hold_command_lock(rt, "rebuild", REBUILD_LOCK_ID):
        if not await _is_begun(rt, tenant):
            await _delete_configuration(rt, tenant)
        # Projectors share this lock. Transactions that began before the tenant was deleted are over when we have it.
        async with session_lock(session_conninfo(rt.settings), SWAP_LOCK):
            pass
        emails = await _delete_emails(rt, tenant)
        rows = await _delete_rows(rt, tenant)
        async with rt.pool.connection() as connection:
            await connection.execute(SQL["finish"], (tenant,))
    return TenantDeletion(emails, rows, remaining_records(rt, datetime.now(UTC)))


def remaining_records(rt: Runtime, now: datetime) -> tuple[RemainingRecords, ...]:
    """Return the topics that may have records of a tenant that was deleted at ``now``."""
    remaining = []
    for topic in TOPICS:
        if topic.retention_ms > 0:
            day = now + timedelta(milliseconds=topic.retention_ms)
            until = f"until {day:%Y-%m-%d}, or up to {SEGMENT_DAYS} days longer"
        elif topic is EMAIL_STATES:
            until = f"until {rt.settings.quiet_days} days after an email's last event"
        else:
            until = "for good"
        remaining.append(RemainingRecords(rt.settings.topic(topic.name), until))
    return tuple(remaining)


async def _is_begun(rt: Runtime, tenant: str) -> bool:
    async with rt.pool.connection() as connection:
        return await (await connection.execute(SQL["deleted_at"], (tenant,))).fetchone() is not None


async def _delete_configuration(rt: Runtime, tenant: str) -> None:
    """Delete what operators set up for the tenant, and remember its name, in one transaction."""
    async with rt.pool.connection() as connection:
        row = await (await connection.execute(SQL["lock_tenant"], (tenant,))).fetchone()
        if row is None:
            raise admin.unknown_tenant(tenant)
        if not row[0]:
            raise Refused(f"tenant {tenant} was resumed meanwhile; nothing is deleted")
        for step in CONFIGURATION_STEPS:
            await connection.execute(SQL[step], (tenant,))


async def _delete_emails(rt: Runtime, tenant: str) -> int:
    """Delete the tenant's emails with all that hangs on them, page by page; return how many."""
    emails, after = 0, str(uuid.UUID(int=0))
    while True:
        async with rt.pool.connection() as connection:
            values = {"tenant": tenant, "after": after, "limit": PAGE_EMAILS}
            row = await (await connection.execute(SQL["history_page"], values)).fetchone()
            assert row is not None
            last, email_ids, mail_ids = row
            if last is None:
                return emails
            after = last
            if email_ids:
                batch = {"tenant": tenant, "email_ids": email_ids, "mail_ids": mail_ids}
                await connection.execute(SQL["delete_emails"], batch)
                emails += len(email_ids)


async def _delete_rows(rt: Runtime, tenant: str) -> dict[str, int]:
    """Delete the tenant's rows of all other tables in batches; return how many of each that had some."""
    steps: dict[str, sql.SQL | sql.Composed] = {
        "jobs.jobs": sql.SQL(SQL["delete_open_jobs"]),
        "intake.template_versions": sql.SQL(SQL["delete_template_versions"]),
    }
    async with rt.pool.connection() as connection:
        await connection.execute(SQL["delete_lanes"], {"tenant": tenant})
        for names in await (await connection.execute(SQL["tables_with_tenant"])).fetchall():
            steps[".".join(names)] = sql.SQL(SQL["delete_rows"]).format(table=sql.Identifier(*names))
    counts = {table: await _delete_in_batches(rt, step, tenant) for table, step in steps.items()}
    return {table: count for table, count in counts.items() if count}


async def _delete_in_batches(rt: Runtime, statement: sql.SQL | sql.Composed, tenant: str) -> int:
    count = 0
    while True:
        async with rt.pool.connection() as connection:
            deleted = (await connection.execute(statement, {"tenant": tenant, "limit": BATCH_ROWS})).rowcount
        if not deleted:
            return count
        count += deleted
