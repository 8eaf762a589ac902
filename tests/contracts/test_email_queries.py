"""The history API's queries on a real Postgres, compared with an oracle that reads the log and no table."""

import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.runtime.secrets.signing import AddressHasher, canonical_address, hash_address
from projections import email_queries
from projections.email_facets import EmailFact
from projections.email_listing import (
    ChangeFeed,
    EmailFilter,
    EmailOrder,
    EmailQuery,
    EmailRow,
    OpenedBy,
    position_after,
)
from projections.email_queries import EmailQueryTimeout
from projections.history_queries import latest_projected_time
from projections.row_changes import fact_kind
from projections.sink import ChangeBatch, Sink
from projections.timeline import in_causal_order
from tests.conftest import RING
from tests.support.changes import T0, Log, acked, again, event, identified, request
from tests.support.history_oracle import HistoryOracle, project_all, varied_log
from tests.support.tables import empty
from topics import codec as topics_codec
from topics.changes import EmailChange, Tick
from topics.events import DeliveryEvent, EventKind
from topics.ids import brand_uuid
from topics.readings import EmailStatus
from topics.record import EmailId, Millis

HASHER = AddressHasher(RING)
EMAILS = 40
END = T0 + 2 * EMAILS * 1000 + 100_000
Connection = psycopg.AsyncConnection[Any]


def make_sink() -> Sink:
    return Sink(lambda address: hash_address(HASHER, address), normalize_address=canonical_address)


def make_logs() -> list[Log]:
    """Return the logs of two partitions, each with emails of two tenants."""
    logs = [varied_log(1, number, EMAILS) for number in range(2)]
    for log in logs:
        log.changes += varied_log(1, log.partition, 5, "other").changes
    return logs


@pytest.fixture
async def oracle(connection: Connection) -> AsyncIterator[HistoryOracle]:
    """Project two partitions of two tenants, and return their oracle."""
    logs = make_logs()
    await project_all(connection, make_sink(), logs, END)
    yield HistoryOracle(logs)
    await empty(connection)


def optional(**fields: Any) -> st.SearchStrategy[EmailFilter]:
    """Return filters with up to three of these fields: with more, hardly any email would match."""
    names = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.builds(EmailFilter, **{name: fields[name] for name in chosen}))


MOMENTS = st.integers(T0 - 5000, END) | st.sampled_from(
    # The very moments at which versions begin and end.
    sorted({change.recorded_at for log in make_logs() for change in log.changes})
)
FILTERS = optional(
    brand_uuid=st.sampled_from(["1", "2", "3"]).map(lambda brand: brand_uuid("acme", brand)),
    statuses=st.lists(st.sampled_from(EmailStatus), max_size=3, unique=True).map(tuple),
    facts=st.lists(st.sampled_from(EmailFact), max_size=2, unique=True).map(tuple),
    without=st.lists(st.sampled_from(EmailFact), max_size=2, unique=True).map(tuple),
    opened_by=st.sampled_from(OpenedBy),
    accepted_from=MOMENTS,
    accepted_to=MOMENTS,
    sent_from=MOMENTS,
    sent_to=MOMENTS,
    updated_from=MOMENTS,
    updated_to=MOMENTS,
    dialect=st.sampled_from(["fasttrack", "freshmail"]),
    provider=st.sampled_from(["relay", "sandbox", "other"]),
    template=st.sampled_from(["template-1", "template-2"]),
    message_id=st.integers(0, 2 * EMAILS).map(lambda number: identified(number)[:-1] + "0"),
    identity=st.integers(0, 2 * EMAILS).map(lambda number: f"activity-{number}"),
    recipient=st.integers(1, 9).map(lambda number: f"player{number}@example.com"),
    recipient_domain=st.sampled_from(["example.com", "xn--bcher-kva.example"]),
    activity_id=st.sampled_from(["1", "2", "3"]),
    action_group_id=st.sampled_from(["10", "11"]),
    action_id=st.sampled_from(["1", "2"]),
    trigger_hash=st.sampled_from(["ab12", "cd34"]),
    user_id=st.sampled_from(["7", "123456789012345678901234567890"]),
    bounce_class=st.sampled_from(["hard", "soft"]),
    bounce_code=st.sampled_from(["5.1.1", "550"]),
    suppressed_reason=st.sampled_from(["complaint", "manual"]),
)


async def all_pages(connection: Connection, query: EmailQuery) -> list[EmailRow]:
    rows: list[EmailRow] = []
    while True:
        async with email_queries.limited_time(connection):
            page = await email_queries.find_emails(connection, query)
        assert len(page.rows) <= query.limit
        rows += page.rows
        if page.next_position is None:
            return rows
        query = msgspec.structs.replace(query, start_after=page.next_position)


QUERIES = st.builds(
    EmailQuery,
    tenant=st.just("acme"),
    as_of=MOMENTS,
    filter=FILTERS,
    order=st.sampled_from(EmailOrder),
    descending=st.booleans(),
    limit=st.integers(1, 60),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
async def test_any_question_has_answer_of_oracle(
    connection: Connection, oracle: HistoryOracle, query: EmailQuery
) -> None:
    rows = await all_pages(connection, query)
    expected = oracle.ids(query)
    assert [row.position.email_id for row in rows] == expected
    for row in rows:
        version = oracle.emails[row.position.email_id].at(query.as_of)
        assert version is not None
        assert (row.version, row.valid_from, row.state) == (version.version, version.valid_from, version.state)
    count = await email_queries.count_emails(connection, query, exact=True)
    assert (count.emails, count.is_exact) == (len(expected), True)


async def test_oracle_and_queries_know_emails_of_every_filter(connection: Connection, oracle: HistoryOracle) -> None:
    """Guard the test above: a filter that selects nothing at all would show nothing."""
    for asked in (
        EmailFilter(suppressed_reason="complaint"),
        EmailFilter(bounce_code="5.1.1"),
        EmailFilter(bounce_class="hard"),
        EmailFilter(opened_by=OpenedBy.MACHINE),
        EmailFilter(user_id="123456789012345678901234567890"),
        EmailFilter(recipient_domain="xn--bcher-kva.example"),
        EmailFilter(template="template-1", dialect="fasttrack"),
    ):
        query = EmailQuery(tenant="acme", as_of=END, filter=asked)
        assert oracle.ids(query), asked
        assert [row.position.email_id for row in await all_pages(connection, query)] == oracle.ids(query)


async def test_estimate_stops_counting(
    connection: Connection, oracle: HistoryOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = EmailQuery(tenant="acme", as_of=END)
    whole = len(oracle.ids(query))
    estimate = await email_queries.count_emails(connection, query, exact=False)
    assert (estimate.emails, estimate.is_exact) == (whole, True)
    monkeypatch.setattr(email_queries, "ESTIMATE_MAX_EMAILS", 10)
    estimate = await email_queries.count_emails(connection, query, exact=False)
    assert (estimate.emails, estimate.is_exact) == (10, False)


async def test_long_question_is_ended(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(email_queries, "QUERY_TIMEOUT", "50ms")
    with pytest.raises(EmailQueryTimeout):
        async with email_queries.limited_time(connection):
            await connection.execute("select pg_sleep(30)")


async def test_feed_has_every_version_once_in_order(connection: Connection, oracle: HistoryOracle) -> None:
    expected = oracle.changes("acme", END)
    start, found = position_after(-1), []
    while rows := (await email_queries.find_changes(connection, ChangeFeed("acme"), start, END, 7)).rows:
        found += [(row.position.valid_from, row.position.email_id, row.position.version) for row in rows]
        start = rows[-1].position
    assert found == expected
    brand = brand_uuid("acme", "1")
    feed = ChangeFeed("acme", brand)
    rows = (await email_queries.find_changes(connection, feed, position_after(-1), END, 100_000)).rows
    assert rows
    assert {row.state.request and row.state.request.brand for row in rows} == {"1"}


async def test_feed_of_a_rare_brand_goes_on_though_it_looks_at_few_rows(
    connection: Connection, oracle: HistoryOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = ChangeFeed("acme", brand_uuid("acme", "1"))
    whole = (await email_queries.find_changes(connection, everything, position_after(-1), END, 100_000)).rows
    monkeypatch.setattr(email_queries, "FEED_MAX_ROWS", 4)
    for brand, expected in (("1", [row.position for row in whole]), ("unknown", [])):
        feed, start, found, pages = ChangeFeed("acme", brand_uuid("acme", brand)), position_after(-1), [], 0
        while True:
            page = await email_queries.find_changes(connection, feed, start, END, 2)
            found += [row.position for row in page.rows]
            pages += 1
            if page.next_position is None:
                break
            start = page.next_position
        assert found == expected
        assert pages > len(oracle.changes("acme", END)) // 4, "each looks at four rows"


async def test_page_of_large_states_ends_early_and_is_decoded_in_a_thread(
    connection: Connection, oracle: HistoryOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()

    def decode(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return topics_codec.decode(*arguments)

    monkeypatch.setattr(email_queries, "decode", decode)
    monkeypatch.setattr(email_queries, "PAGE_MAX_BYTES", 1)
    query = EmailQuery(tenant="acme", as_of=END, limit=50)
    page = await email_queries.find_emails(connection, query)
    assert (len(page.rows), page.next_position) == (1, page.rows[0].position)
    assert [row.position.email_id for row in await all_pages(connection, query)] == oracle.ids(query)
    email_id = page.rows[0].position.email_id
    versions = await email_queries.find_versions(connection, "acme", email_id, END, after_version=0, limit=50)
    assert len(versions.rows) == 1
    assert versions.next_position is not None
    changes = await email_queries.find_changes(connection, ChangeFeed("acme"), position_after(-1), END, 50)
    assert [row.position for row in changes.rows] == [changes.next_position]
    assert threading.get_ident() not in threads


async def test_timeline_of_many_facts_is_cut(connection: Connection, oracle: HistoryOracle) -> None:
    query = EmailQuery(tenant="acme", as_of=END)
    email_id = EmailId(max(oracle.ids(query), key=lambda each: oracle.emails[each].versions[-1].version))
    whole, is_cut = await email_queries.find_timeline(connection, email_id, END, 100)
    assert (len(whole) > 2, is_cut) == (True, False)
    assert await email_queries.find_timeline(connection, email_id, END, 2) == (whole[:2], True)


async def test_feed_misses_nothing_while_projectors_commit_in_any_order(connection: Connection) -> None:
    logs = [varied_log(2, number, 30) for number in range(2)]
    oracle, sink, chance = HistoryOracle(logs), make_sink(), random.Random(3)
    places = [0, 0]
    for log in logs:
        await sink.start(connection, log.partition, 0, 0, 2)
    start, found = position_after(-1), []
    while any(place <= len(log.changes) for place, log in zip(places, logs, strict=True)):
        number = chance.choice([each for each in range(2) if places[each] <= len(logs[each].changes)])
        records: list[EmailChange | Tick] = [*logs[number].changes, Tick(recorded_at=END)]
        end = min(len(records), places[number] + chance.randint(1, 25))
        await sink.apply(connection, ChangeBatch(number, places[number], end, records[places[number] : end]))
        places[number] = end
        until = await latest_projected_time(connection)
        while rows := (await email_queries.find_changes(connection, ChangeFeed("acme"), start, until, 5)).rows:
            found += [(row.position.valid_from, row.position.email_id, row.position.version) for row in rows]
            start = rows[-1].position
        start = max(start, position_after(until), key=lambda position: (position.valid_from, position.email_id))
    assert found == oracle.changes("acme", END)


async def test_timeline_shows_what_was_known_then(connection: Connection) -> None:
    """An event, its repetition and its correction are each shown as of the time when they were projected."""
    opened = event(1, EventKind.OPENED, T0 + 100)
    corrected = again(opened, EventKind.OPENED, T0 + 50_000, machine="a scanner")
    log = Log().fold(request(1)).fold(acked(1, T0 + 50)).fold(opened)
    log.fold(opened)
    log.changes[-1] = msgspec.structs.replace(log.changes[-1], recorded_at=T0 + 20_000)
    log.fold(corrected)
    log.changes[-1] = msgspec.structs.replace(log.changes[-1], recorded_at=T0 + 50_000)
    for cuts in ((), (3,), (4,), (1, 2, 3, 4)):
        sink = make_sink()
        await sink.start(connection, 0, 0, 0)
        for run in log.runs(*cuts):
            await sink.apply(connection, run)
        assert await _timeline(connection, T0 + 20) == ["accepted"]
        assert await _timeline(connection, T0 + 10_000) == ["accepted", "acked", "opened  1"]
        assert await _timeline(connection, T0 + 30_000) == ["accepted", "acked", "opened  2"]
        assert await _timeline(connection, T0 + 60_000) == ["accepted", "acked", "opened a scanner 3"]
        await empty(connection)


async def _timeline(connection: Connection, as_of: Millis) -> list[str]:
    """Return the kinds of the known facts; of an opened email by whom, and in how many places."""
    timelines = await email_queries.find_timelines(connection, [identified(1)], as_of)
    timeline = in_causal_order(timelines.get(identified(1), []))
    return [
        f"opened {entry.fact.machine} {len(entry.places)}"
        if isinstance(entry.fact, DeliveryEvent)
        else fact_kind(entry.fact)
        for entry in timeline
    ]
