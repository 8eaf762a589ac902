"""Check Postgres: whether it answers and can be written to, its clock, certificates and schema. Nothing is migrated."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import psycopg

from pipeline.errors import DatabaseUnavailable
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, warn
from pipeline.operations.doctor.postgres_tls import find_certificates
from pipeline.runtime.postgres.conninfo import first_line, pooled_conninfo
from pipeline.runtime.postgres.schema import require_schema
from pipeline.settings import Settings
from projections.migrate import SchemaDifference, compare_schema
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
CONNECT_TIMEOUT_S: Final = 5
MIN_VERSION: Final = 150_000
MAX_CLOCK_SKEW_S: Final = 1.0


async def check_postgres(settings: Settings) -> AsyncIterator[DoctorFinding]:
    """Yield the findings about the database server and the schema."""
    if not settings.database_url.get_secret_value():
        yield fail("DATABASE_URL is not set, and no stack runs here", "set it, or start `mailfold up`")
        return
    async with connect(settings) as connection:
        asked_at = time.time()
        row = await (await connection.execute(SQL["server"])).fetchone()
        answered_at = time.time()
        assert row is not None
        version, is_standby, database_time, is_read_only = row
        yield _version_finding(version)
        if is_standby or is_read_only:
            yield fail("Postgres is read-only: a standby, or set so", "name the primary in DATABASE_URL")
        yield clock_finding(database_time - (asked_at + answered_at) / 2, answered_at - asked_at)
        difference = await compare_schema(connection)
        yield schema_finding(difference)
    for finding in await find_certificates(settings):
        yield finding
    if not (difference.needed or difference.is_too_new):
        # What would end a role at its start: the address for sessions, the feature level.
        await require_schema(settings)


@contextlib.asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Open a connection that migrates nothing. Raise DatabaseUnavailable, InvalidSettings."""
    try:
        try:
            connection = await psycopg.AsyncConnection.connect(pooled_conninfo(settings), autocommit=True)
        except psycopg.OperationalError:
            # None of the hosts accepts writes: one that only reads is a finding, not an outage.
            connection = await psycopg.AsyncConnection.connect(
                settings.database_url.get_secret_value(), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"Postgres at DATABASE_URL does not answer: {first_line(error)}") from error
    async with connection:
        yield connection


def _version_finding(version: int) -> DoctorFinding:
    if version < MIN_VERSION:
        return fail(f"PostgreSQL {version // 10_000} is too old", f"use {MIN_VERSION // 10_000} or newer")
    return ok(f"PostgreSQL {version // 10_000}.{version % 10_000} answers")


def clock_finding(skew_s: float, round_trip_s: float) -> DoctorFinding:
    """Return whether the database's clock is near this machine's, as far as the round trip lets us know."""
    if abs(skew_s) <= MAX_CLOCK_SKEW_S + round_trip_s / 2:
        return ok(f"its clock and this machine's differ by less than {MAX_CLOCK_SKEW_S + round_trip_s / 2:.1f} s")
    ahead = "ahead of" if skew_s > 0 else "behind"
    return fail(
        f"its clock is {abs(skew_s):.1f} s {ahead} this machine's: retries, leases and listings go by these clocks",
        "let both follow a time server (chrony, ntpd)",
    )


def schema_finding(difference: SchemaDifference) -> DoctorFinding:
    """Return whether this program can work with the database's schema."""
    if difference.is_empty:
        return fail("the database has no tables of Mailfold's", "`mailfold migrate` makes them")
    if difference.is_too_new:
        return fail(f"the schema is too new for this program: {difference.unknown[-1]}", "use the newer version here")
    if difference.needed:
        return fail(f"the schema is older than this program: {difference.needed[0]} is missing", "`mailfold migrate`")
    if difference.unknown:
        return warn(f"the schema has {difference.unknown[-1]}, of a newer version", "use that version here, too")
    if difference.missing:
        return warn(f"an upgrade is not finished: {difference.missing[0].name}", "`mailfold upgrade finish`")
    return ok(f"the schema is at {difference.applied[-1]}")
