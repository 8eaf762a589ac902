"""Measure what the rollups of the statistics cost the projector's writing. Run by `python -m bench rollups`.

The same changes are written with them and without, in turn, straight into Postgres as the projector writes a backlog.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import msgspec
import psycopg

from bench import material
from bench.figures import Cost, Rate
from bench.house import World
from pipeline.project.partition import TRANSACTION_MAX_RECORDS
from pipeline.worker.fold import evolve
from projections.sink import ChangeBatch, Sink
from projections.statistics import CampaignBook, StatisticsChanges
from topics.changes import AppliedFact, EmailChange, Fact
from topics.record import LogPosition
from topics.states import EmailState

ROUNDS = 3
CAMPAIGNS = 20
DOMAINS = ("gmail.com", "hotmail.com", "yahoo.com", "icloud.com", "web.de", "example.test")


async def run(world: World) -> tuple[Rate, list[Cost]]:
    """Return the changes per second with and without rollups, and the rows that the rollups take."""
    made = _changes(world.size.project)
    url = world.settings.database_url.get_secret_value()
    rates: dict[bool, list[float]] = {True: [], False: []}
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for _ in range(ROUNDS):
            for with_rollups in (False, True):
                await _empty(connection)
                rates[with_rollups].append(await _pace(connection, made, with_rollups=with_rollups))
        row = await (await connection.execute(_SIZE)).fetchone()
    assert row is not None
    medians = {with_rollups: statistics.median(values) for with_rollups, values in rates.items()}
    rate = Rate("rollups", "changes", medians[True], "the same without rollups", medians[False])
    emails = world.size.project
    return rate, [
        Cost("rollups", "rows of the rollups", "per email", row[0] / emails),
        Cost("rollups", "bytes of the rollups", "per email", row[1] / emails),
    ]


_SIZE = "select count(*), pg_total_relation_size('projections.statistics') from projections.statistics"


def _changes(emails: int) -> list[EmailChange]:
    """Return the changes of emails of several campaigns to several domains: first all requests, then all acks, …."""
    changes: list[list[EmailChange]] = []
    for number in range(emails):
        state: EmailState | None = None
        of_email: list[EmailChange] = []
        for offset, fact in enumerate(_facts(number)):
            state = evolve(state, fact)
            place = LogPosition(topic="bench", partition=0, offset=number * 10 + offset)
            applied = (AppliedFact(place=place, fact=fact),)
            of_email.append(EmailChange(email_id=state.email_id, recorded_at=material.NOW, facts=applied, state=state))
        changes.append(of_email)
    return [change for step in zip(*changes, strict=True) for change in step]


def _facts(number: int) -> list[Fact]:
    request, *others = material.facts(number)
    activity = msgspec.Raw(b'{"activity_id":%d,"action_group_id":1}' % (number % CAMPAIGNS))
    recipient = f"player{number}@{DOMAINS[number % len(DOMAINS)]}"
    return [msgspec.structs.replace(request, activity=activity, recipient=recipient), *others]


async def _pace(
    connection: "psycopg.AsyncConnection[Any]", made: Sequence[EmailChange], *, with_rollups: bool
) -> float:
    """Return the changes written per second."""
    sink = Sink(lambda address: address.encode())
    offset = await sink.start(connection, 0, 0, 0)
    began = time.perf_counter()
    for start in range(0, len(made), TRANSACTION_MAX_RECORDS):
        batch = made[start : start + TRANSACTION_MAX_RECORDS]
        changes = ChangeBatch(0, offset, offset + len(batch), batch)
        if with_rollups:
            await sink.apply(connection, changes)
        else:
            with patch("projections.sink.compute_statistics", _count_nothing), patch(_READ_BOOKS, _read_no_books):
                await sink.apply(connection, changes)
        offset += len(batch)
    return len(made) / (time.perf_counter() - began)


_READ_BOOKS = "projections.statistics_rows.read_books"


def _count_nothing(*_: object) -> StatisticsChanges:
    return StatisticsChanges()


async def _read_no_books(
    _connection: object, _pipeline: object, batches: Sequence[object], _: object
) -> list[CampaignBook]:
    return [CampaignBook({}) for _ in batches]


async def _empty(connection: "psycopg.AsyncConnection[Any]") -> None:
    await connection.execute(
        "truncate projections.history, projections.versions, projections.timeline, projections.evidence, "
        "projections.statistics, projections.statistics_groups, projections.statistics_campaigns, "
        "projections.requests, projections.superseded_facts, projections.mails, projections.next_offsets, "
        "intake.identities, jobs.jobs"
    )
