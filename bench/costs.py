"""Measure what work costs: CPU time of each process, records and bytes on the log, work of Postgres.

The stages read the counters before and after some work and divide the difference by its amount. CPU time changes far
less than a rate when other programs use the same machine.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from bench.figures import Cost, pace
from bench.house import World
from bench.memory import program_name
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import discover_partitions
from topics.registry import EMAIL_CHANGES, TOPICS

LOAD: Final = "load and receiver"
"""Name of the bench's own process, which sends the emails and receives the conversions."""
OUR_ROLES: Final = ("gateway", "worker", "dispatch", "project", "emit")
QUIET_S: Final = 1.5
"""Seconds without a new byte on the log after which all work counts as done."""
STATISTICS_DELAY_S: Final = 1.2
"""Seconds after which an idle Postgres session has usually reported its transactions."""
_STATEMENT: Final = re.compile(rb"^bench-statement (?!PARSE|BIND)[A-Z ]+ LOG:  duration: ", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """Counters at one moment."""

    cpu_s: Mapping[str, float]
    """Seconds of CPU time by program, its child processes included."""
    postgres: Mapping[str, float] = field(default_factory=dict)
    records: Mapping[str, float] = field(default_factory=dict)
    """End offsets by topic."""
    log_bytes: Mapping[str, float] = field(default_factory=dict)
    """Bytes by topic; the broker's own topics have the name ''."""


def read_cpu() -> dict[str, float]:
    """Return the seconds of CPU time of this process and of each of its child processes with their descendants."""
    own = psutil.Process()
    times = own.cpu_times()
    seconds = {LOAD: times.user + times.system}
    for child in own.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            name = program_name(child)
            for process in (child, *child.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    spent = times.user + times.system + times.children_user + times.children_system
                    seconds[name] = seconds.get(name, 0.0) + spent
    return seconds


class UsageMeter:
    """A reader of all counters of one stage's processes, topics and database."""

    def __init__(self, world: World) -> None:
        self._settings = world.settings
        self._servers = world.settings.data_dir.parent

    async def begin(self) -> Usage:
        """Return the counters before some work; the CPU time is read last."""
        postgres, (records, log_bytes) = await self._read_postgres(), await self._read_log()
        return Usage(read_cpu(), postgres, records, log_bytes)

    async def end(self) -> Usage:
        """Return the counters after some work; the CPU time is read first."""
        cpu_s = read_cpu()
        await asyncio.sleep(STATISTICS_DELAY_S)
        records, log_bytes = await self._read_log()
        return Usage(cpu_s, await self._read_postgres(), records, log_bytes)

    async def until_quiet(self) -> None:
        """Wait until no fact and no state was appended for QUIET_S: the last conversions still become both."""
        size, since = -1.0, time.monotonic()
        while time.monotonic() - since < QUIET_S:
            # The projector appends the time to email-changes every second, and the broker has topics of its own.
            now = sum(size for name, size in self._log_bytes().items() if name not in ("", EMAIL_CHANGES.name))
            if now != size:
                size, since = now, time.monotonic()
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def counted_statements(self) -> AsyncIterator[list[int]]:
        """Count the statements that Postgres executes in the block, `begin` and `commit` included.

        The list gets the count at the end of the block. The server logs a line for each, so that nothing else may be
        measured meanwhile.
        """
        log = self._servers / "postgres" / "postgres.log"
        counts: list[int] = []
        await self._configure_server("alter system set log_line_prefix = 'bench-statement %i '")
        await self._configure_server("alter system set log_duration = on")
        position = log.stat().st_size
        try:
            yield counts
        finally:
            await self._configure_server("alter system reset all")
            counts.append(len(_STATEMENT.findall(_read_from(log, position))))

    async def _configure_server(self, statement: Any) -> None:
        async with await self._connect() as connection:
            await connection.execute(statement)
            await connection.execute("select pg_reload_conf()")
        await asyncio.sleep(0.2)

    async def _connect(self) -> "psycopg.AsyncConnection[Any]":
        return await psycopg.AsyncConnection.connect(self._settings.database_url.get_secret_value(), autocommit=True)

    async def _read_postgres(self) -> dict[str, float]:
        async with await self._connect() as connection:
            cursor = await connection.execute(
                "select xact_commit + xact_rollback, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8,"
                " pg_database_size(current_database()) from pg_stat_database where datname = current_database()"
            )
            row = await cursor.fetchone()
        assert row is not None
        return {"Postgres transactions": row[0], "Postgres WAL": row[1], "Postgres size": row[2]}

    async def _read_log(self) -> tuple[dict[str, float], dict[str, float]]:
        prefix, records = self._settings.topic_prefix, dict[str, float]()
        reader = create_consumer(self._settings)
        await reader.start()
        try:
            partitions = await discover_partitions(reader, *[prefix + topic.name for topic in TOPICS])
            for partition, end in (await reader.end_offsets(partitions)).items():
                name = partition.topic.removeprefix(prefix)
                records[name] = records.get(name, 0.0) + end
        finally:
            await reader.stop()
        return records, self._log_bytes()

    def _log_bytes(self) -> dict[str, float]:
        prefix, sizes = self._settings.topic_prefix, dict[str, float]()
        for segment in (self._servers / "kafka" / "data").glob("*/*.log"):
            topic = segment.parent.name.rpartition("-")[0]
            name = topic.removeprefix(prefix) if topic.startswith(prefix) else ""
            if name or topic.startswith("__"):
                with contextlib.suppress(FileNotFoundError):
                    sizes[name] = sizes.get(name, 0.0) + segment.stat().st_size
        return sizes


async def pace_with_costs(
    progress: Callable[[], Awaitable[int]], total: int, within: float, *, stage: str, unit: str
) -> tuple[float, list[Cost]]:
    """Return the progress per second as `pace` does, and the CPU time of each program for a unit in the same window."""
    first: list[tuple[int, dict[str, float]]] = []

    async def watched_progress() -> int:
        done = await progress()
        if done and not first:
            first.append((done, read_cpu()))
        return done

    rate = await pace(watched_progress, total, within)
    done, before = first[0]
    return rate, cpu_costs(stage, before, read_cpu(), max(1, total - done), unit)


def cpu_costs(
    stage: str, before: Mapping[str, float], after: Mapping[str, float], amount: int, unit: str
) -> list[Cost]:
    """Return the milliseconds of CPU time of each program for one of ``amount`` units; our roles first, then a sum."""
    spent = {name: 1000 * (after[name] - before.get(name, 0.0)) / amount for name in after}
    ours = [name for name in OUR_ROLES if name in spent]
    ordered = [*ours, *sorted(spent.keys() - set(ours))]
    costs = [Cost(stage, f"CPU of {name}", f"ms/{unit}", spent[name]) for name in ordered]
    if len(ours) > 1:
        costs.insert(len(ours), Cost(stage, "CPU of our roles", f"ms/{unit}", sum(spent[name] for name in ours)))
    return costs


def usage_costs(stage: str, before: Usage, after: Usage, amount: int, unit: str) -> list[Cost]:
    """Return all costs of one of ``amount`` units: CPU time, records and bytes on the log, work of Postgres."""

    def per_unit(name: str, unit_of_cost: str, started: float, ended: float) -> Cost:
        return Cost(stage, name, f"{unit_of_cost}/{unit}", (ended - started) / amount)

    records = sum(after.records.values()), sum(before.records.values())
    log_bytes = sum(after.log_bytes.values()), sum(before.log_bytes.values())
    topics = [name for name, size in after.log_bytes.items() if name and size != before.log_bytes.get(name, 0.0)]
    return [
        *cpu_costs(stage, before.cpu_s, after.cpu_s, amount, unit),
        per_unit("records on the log", "records", records[1], records[0]),
        per_unit("bytes on the log", "bytes", log_bytes[1], log_bytes[0]),
        *(
            per_unit(f"bytes of {name}", "bytes", before.log_bytes.get(name, 0.0), after.log_bytes[name])
            for name in sorted(topics)
        ),
        *(
            per_unit(name, "count" if name.endswith("transactions") else "bytes", before.postgres[name], value)
            for name, value in after.postgres.items()
        ),
    ]


def _read_from(path: Path, position: int) -> bytes:
    with path.open("rb") as log:
        # A log that grew too large was moved away meanwhile.
        log.seek(min(position, path.stat().st_size))
        return log.read()
