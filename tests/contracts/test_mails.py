"""Mails on a real Postgres: the same rows from any split, order and repeats, and valid SQL for every RQL query."""

import asyncio
import json
import random
from typing import Any
from urllib.parse import quote

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.dialects import rql
from pipeline.dialects.extrahorizon_listing import MAIL_FIELDS, QUEUED_MAIL_FIELDS
from pipeline.errors import Refused
from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from projections import mails
from projections.listing_query import ListingQuery
from projections.sink import ChangeBatch, Connection, Sink
from tests.conftest import RING
from tests.support.changes import T0, Log
from tests.support.tables import empty, tables
from topics.acks import Acked
from topics.events import DeliveryEvent, EventKind
from topics.ids import email_id
from topics.record import EmailId
from topics.requests import SendRequest

SIGNER = AddressHasher(RING)


@pytest.fixture
def sink() -> Sink:
    return Sink(lambda address: hash_address(SIGNER, address))


def named(mail: int, nth: int) -> EmailId:
    return email_id("acme", "extrahorizon", f"mail-{mail}", nth)


def request(mail: int, nth: int = 0, **fields: Any) -> SendRequest:
    details = {"id": f"mail-{mail}", "subject": f"Subject {mail}", "creation_timestamp": T0 + mail} | fields
    return SendRequest(
        email_id=named(mail, nth),
        message_id=f"mail-{mail}",
        tenant="acme",
        dialect="extrahorizon",
        brand="default",
        recipient=f"r{nth}@example.com",
        recorded_at=T0 + mail,
        details=msgspec.Raw(json.dumps(details).encode() if nth == 0 else b"null"),
    )


def opened(mail: int, nth: int, number: int) -> DeliveryEvent:
    return DeliveryEvent(
        email_id=named(mail, nth),
        event_id=f"extrahorizon:{mail}-{nth}-{number}",
        kind=EventKind.OPENED,
        occurred_at=T0 + 100 + number,
        recorded_at=T0 + 100 + number,
        provider="extrahorizon",
    )


def acked(mail: int, nth: int) -> Acked:
    return Acked(
        email_id=named(mail, nth),
        event_id=f"ack:{mail}:{nth}",
        occurred_at=T0 + 50,
        recorded_at=T0 + 50,
        provider="relay",
        provider_message_id=f"id-{mail}-{nth}",
    )


def logs(seed: int, views: int = 40) -> list[Log]:
    """Two partitions; each mail has a recipient in both; many more views than a state keeps, some twice, some early."""
    chance = random.Random(seed)
    all_logs = [Log(0), Log(1)]
    for nth, log in enumerate(all_logs):
        facts: list[Any] = []
        for mail in range(3):
            facts += [request(mail, nth), acked(mail, nth)]
            facts += [opened(mail, nth, number) for number in range(views)]
        facts += chance.sample(facts, 30)
        chance.shuffle(facts)
        for fact in facts:
            log.fold(fact)
    return all_logs


async def project(connection: Connection, sink: Sink, runs: list[ChangeBatch]) -> None:
    for partition in {run.partition for run in runs}:
        await sink.start(connection, partition, 0, 0, 2)
    for run in runs:
        await sink.apply(connection, run)


@pytest.mark.parametrize("seed", range(4))
async def test_view_counts_once_in_any_split_and_partition_order(connection: Connection, sink: Sink, seed: int) -> None:
    chance = random.Random(seed)
    first, second = logs(seed)
    await project(connection, sink, [*first.runs(), *second.runs()])
    stored = (await tables(connection, "mails"))["mails"]
    assert [(row[0], row[3]) for row in stored] == [(f"mail-{mail}", 80) for mail in range(3)]
    assert [row[5]["views"] for row in stored] == [80, 80, 80]
    assert [row[5]["aws_message_id"] for row in stored] == [f"id-{mail}-0" for mail in range(3)]
    for _ in range(3):
        await empty(connection)
        runs = [
            log.runs(*sorted(chance.sample(range(1, len(log.changes)), 15)))
            for log in chance.sample([first, second], 2)
        ]
        mixed = []
        while any(runs):
            mixed.append(chance.choice([left for left in runs if left]).pop(0))
        await project(connection, sink, mixed)
        assert (await tables(connection, "mails"))["mails"] == stored


async def test_concurrent_partitions_update_same_mail_without_loss_or_deadlock(
    database_url: str, connection: Connection, sink: Sink
) -> None:
    all_logs = logs(7)

    async def one(log: Log) -> None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own:
            await project(own, sink, log.runs(*range(10, len(log.changes), 10)))

    await asyncio.gather(*(one(log) for log in all_logs))
    stored = (await tables(connection, "mails"))["mails"]
    assert [row[3] for row in stored] == [80, 80, 80]


async def test_mail_is_not_listed_before_its_first_recipient(connection: Connection, sink: Sink) -> None:
    log = Log(0).fold(request(1, 1)).fold(opened(1, 1, 1))
    await project(connection, sink, log.runs())
    assert (await mails.find(connection, "acme", ListingQuery())).total == 0
    more = log.fold(request(1, 0, subject="told"))
    await project(connection, sink, more.runs(2)[1:])
    stored = await mails.find(connection, "acme", ListingQuery())
    assert [json.loads(mail)["views"] for mail in stored.mails] == [1]


async def ask(connection: Connection, query: str) -> list[str]:
    stored = await mails.find(connection, "acme", rql.parse(query, MAIL_FIELDS))
    return [json.loads(mail)["id"] for mail in stored.mails]


async def test_rql_query_returns_matching_mails(connection: Connection, sink: Sink) -> None:
    log = Log(0)
    log.fold(
        request(1, subject='A "b" 5%', content={"plan": "gold", "n": [{"k": 70}]}, recipients={"to": ["a@x", "b@x"]})
    )
    log.fold(request(2, subject="5", content={"plan": 5}, recipients={"to": ["c@x"]}, template_id="t"))
    log.fold(request(3, subject="über", body="text", recipients={"to": ["b@x"]}))
    await project(connection, sink, log.runs())
    every = ["mail-1", "mail-2", "mail-3"]
    expected = {
        "": every,
        "eq(subject,A%2520%2522b%2522%25205%2525)": ["mail-1"],
        "eq(subject,5)": ["mail-2"],
        "eq(content.plan,5)": ["mail-2"],
        "ne(content.plan,gold)": ["mail-2", "mail-3"],
        "eq(recipients.to,b@x)": ["mail-1", "mail-3"],
        "in(recipients.to,c@x,a@x)": ["mail-1", "mail-2"],
        "out(recipients.to,c@x,a@x)": ["mail-3"],
        "like(subject,%25C3%25BCBER)": ["mail-3"],
        "like(subject,.)": [],
        "contains(body)": ["mail-3"],
        "excludes(body)": ["mail-1", "mail-2"],
        "contains(template_id)|contains(body)": ["mail-2", "mail-3"],
        "contains(content.n,and(gt(k,60),lt(k,90)))": ["mail-1"],
        "contains(content.n,gt(k,90))": [],
        f"gt(creation_timestamp,{T0 + 1})": ["mail-2", "mail-3"],
        "sort(-creation_timestamp)": every[::-1],
        "sort(subject)&limit(2,1)": ["mail-1", "mail-3"],
        "limit(1,1)": ["mail-2"],
        "eq(views,0)&like(id,MAIL)": every,
    }
    for query, stored in expected.items():
        assert await ask(connection, query) == stored, query
    assert (await mails.find(connection, "acme", rql.parse("limit(1,5)", MAIL_FIELDS))).total == 3
    assert (await mails.find(connection, "acme", rql.parse("skipCount()", MAIL_FIELDS))).total is None
    assert (await mails.find(connection, "other", ListingQuery())).total == 0
    queued = await mails.find_queued(connection, "acme", rql.parse("eq(status,queued)&limit(1,2)", QUEUED_MAIL_FIELDS))
    assert (len(queued.mails), queued.total) == (1, 3)


pieces = st.sampled_from(
    [
        *(
            "eq(",
            "in(",
            "and(",
            "or(",
            "like(",
            "contains(",
            "excludes(",
            "ne(",
            "gt(",
            "sort(",
            ")",
            ")",
            ",",
            ",",
            "&",
            "|",
        ),
        *(
            "id",
            "views",
            "content.a",
            "recipients",
            "subject",
            "1",
            "x",
            '"',
            "\\",
            "$",
            "@",
            "%255C",
            "%2522",
            "é",
            "[",
            "*",
        ),
    ]
)
characters = st.sampled_from("\"\\'$@?()*.[]{}|&!=<>~#%/a1é\n\t") | st.characters(
    exclude_categories=["Cs"], exclude_characters="\0\ufffd"
)
values = st.text(characters, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=12), values)
async def test_any_rql_query_is_valid_sql(connection: Connection, parts: list[str], value: str) -> None:
    twice = quote(quote(value, safe=""), safe="")
    for query in ("".join(parts), f"eq(content.x,{twice})&like(subject,{twice})&in(id,{twice},{twice})"):
        try:
            parsed = rql.parse(query, MAIL_FIELDS)
        except Refused:
            continue
        await mails.find(connection, "acme", parsed)
