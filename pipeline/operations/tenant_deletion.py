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
from pipeline.operations.backup.contents import OWNED_TABLES, REBUILT_TABLES
from pipeline.operations.rebuild import REBUILD_LOCK_ID
from pipeline.operations.renormalize.preconditions import CORRELATION, CatchUpStages, wait_until_caught_up
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.conninfo import session_conninfo
from pipeline.runtime.postgres.leader import hold_command_lock
from pipeline.runtime.postgres.schema import other_processes
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
"""Jobs of each kind that one transaction deletes."""
BATCH_BLOCKS: Final = 1_000
"""Blocks of other tables, of 8 KiB each, whose rows one transaction deletes."""
SCHEMAS: Final = sorted({table.partition(".")[0] for table in (*(each.name for each in OWNED_TABLES), *REBUILT_TABLES)})
"""The schemas of all our tables."""
MAX_SENDING_WAIT_S: Final = 120.0
"""Seconds to wait until the emails of a suspended tenant that are being sent are sent or released."""
SENDING_POLL_S: Final = 0.5
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


async def require_nothing_owed(
    rt: Runtime, tenant: str, *, discard: bool = False, force: bool = False
) -> datetime | None:
    """Raise Refused while the tenant may send, or anything is owed to it or by it.

    With ``discard``, what is owed is no reason; with ``force``, connected processes of other versions are none. Waits
    until every process knows of the suspension and the roles have read the log. Return since when the tenant is
    suspended; None, at once, where the deletion has begun already. Raise NotFound.
    """
    async with rt.pool.connection() as connection:
        if not force and (others := await other_processes(connection)):
            raise Refused(
                f"processes of other versions are connected, and they may write what is deleted: {others}. Finish the "
                "upgrade first, or give --force if they are none of Mailfold's"
            )
        if await admin.is_deleted(connection, tenant):
            return None
        row = await (await connection.execute(SQL["suspension"], (tenant,))).fetchone()
    if row is None:
        raise admin.unknown_tenant(tenant)
    suspended_at: datetime | None = row[0]
    if suspended_at is None:
        raise Refused(f"tenant {tenant} may still send; first: mailfold tenants suspend {tenant}")
    # A gateway that looked the tenant up just before may append until its time-out.
    await asyncio.sleep(max(admin.SUSPENSION_DELAY_S + rt.settings.append_timeout - row[1], 0))
    await wait_until_caught_up(rt, stages=STAGES)
    if discard:
        await _wait_until_nothing_is_sent(rt, tenant)
    else:
        async with rt.pool.connection() as connection:
            await _require_no_jobs(connection, tenant)
    return suspended_at


async def delete_tenant(
    rt: Runtime, tenant: str, suspended_at: datetime | None, *, discard: bool = False
) -> TenantDeletion:
    """Delete a suspended tenant and return what was removed and what remains. Raise NotFound and Refused.

    Call :func:`require_nothing_owed` before, with the same ``discard``; ``suspended_at`` is what it returned.
    """
    async with hold_command_lock(rt, "rebuild", REBUILD_LOCK_ID):
        async with rt.pool.connection() as connection:
            if not await admin.is_deleted(connection, tenant):
                await _delete_configuration(connection, tenant, suspended_at, discard=discard)
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


async def _wait_until_nothing_is_sent(rt: Runtime, tenant: str) -> None:
    """Wait until no dispatcher has an email of the tenant in hand. Raise Refused after MAX_SENDING_WAIT_S."""
    deadline = asyncio.get_running_loop().time() + MAX_SENDING_WAIT_S
    while True:
        async with rt.pool.connection() as connection:
            lanes = await admin.list_lanes(connection, tenant)
            row = await (await connection.execute(SQL["attempts_in_hand"], {"lanes": lanes})).fetchone()
        if row is None or not row[0]:
            return
        if asyncio.get_running_loop().time() >= deadline:
            raise Refused(f"{row[0]} emails of tenant {tenant} are still being sent; repeat it")
        await asyncio.sleep(SENDING_POLL_S)


async def _require_no_jobs(connection: Connection, tenant: str) -> None:
    """Raise Refused where the tenant has jobs that are not done."""
    if jobs := await admin.open_jobs(connection, tenant):
        owed = [f"{count} {_JOB_WORDS[queue]} ({state})" for (queue, state), count in jobs.items()]
        raise Refused(
            f"tenant {tenant} is owed something: {', '.join(owed)}. Revoke its keys and resume it, so that "
            "it goes out, and replay what is dead (`mailfold dead list`); or give all of it up with --discard"
        )


async def _delete_configuration(
    connection: Connection, tenant: str, suspended_at: datetime | None, *, discard: bool
) -> None:
    """Delete what operators set up for the tenant, and remember its name, in the transaction of the connection.

    Raise Refused if the tenant was resumed since ``suspended_at``, or something became owed.
    """
    row = await (await connection.execute(SQL["lock_tenant"], (tenant,))).fetchone()
    if row is None:
        raise admin.unknown_tenant(tenant)
    if row[0] is None or row[0] != suspended_at:
        raise Refused(f"tenant {tenant} was resumed meanwhile; nothing is deleted")
    if not discard:
        await _require_no_jobs(connection, tenant)
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
    async with rt.pool.connection() as connection:
        await connection.execute(SQL["delete_lanes"], {"tenant": tenant})
        reserved = (await connection.execute(SQL["delete_template_versions"], {"tenant": tenant})).rowcount
        tables = await (await connection.execute(SQL["tables_with_tenant"], {"schemas": SCHEMAS})).fetchall()
    counts = {"jobs.jobs": await _delete_open_jobs(rt, tenant), "intake.template_versions": reserved}
    for names in tables:
        count = deleted = await _delete_in_blocks(rt, names, tenant)
        while deleted:
            # A row that somebody updates meanwhile, such as an export's, may move to a block that was read.
            count += (deleted := await _delete_in_blocks(rt, names, tenant))
        counts[".".join(names)] = count
    return {table: count for table, count in counts.items() if count}


async def _delete_open_jobs(rt: Runtime, tenant: str) -> int:
    """Delete the tenant's jobs that are not done, batch by batch; return how many."""
    count = 0
    while True:
        async with rt.pool.connection() as connection:
            lanes = await admin.list_lanes(connection, tenant)
            values = {"tenant": tenant, "lanes": lanes, "limit": BATCH_ROWS}
            deleted = (await connection.execute(SQL["delete_open_jobs"], values)).rowcount
        if not deleted:
            return count
        count += deleted


async def _delete_in_blocks(rt: Runtime, names: tuple[str, str], tenant: str) -> int:
    """Delete the tenant's rows of a table, given by schema and name, some blocks at a time; return how many."""
    statement = sql.SQL(SQL["delete_rows"]).format(table=sql.Identifier(*names))
    count = 0
    async with rt.pool.connection() as connection:
        row = await (await connection.execute(SQL["blocks"], (".".join(names),))).fetchone()
    for block in range(0, row[0] if row else 0, BATCH_BLOCKS):
        async with rt.pool.connection() as connection:
            values = {"tenant": tenant, "block": block, "end": block + BATCH_BLOCKS}
            count += (await connection.execute(statement, values)).rowcount
    return count
