"""`GET /v1/Email/` over real HTTP, on tables that the real sink wrote."""

import functools
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from pipeline import admin
from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from pipeline.settings import Settings
from projections.history import HistoryFilter, HistoryPosition, HistoryQuery
from projections.history_queries import SQL
from projections.sink import ChangeBatch, Sink
from tests.conftest import RING
from tests.support.changes import T0, Log, acked, event, identified, request
from tests.support.gateway import Gateway, gateway
from topics.changes import Tick
from topics.events import EventKind
from topics.ids import brand_uuid
from topics.readings import ListedState

SINK = Sink(functools.partial(hash_address, AddressHasher(RING)))


class Grown:
    """A partition that grows, run by run."""

    def __init__(self, served: Gateway) -> None:
        self._served, self.log, self._next, self._projected = served, Log(), 0, 0

    async def project(self) -> None:
        async with self._served.rt.pool.connection() as connection:
            await SINK.start(connection, 0, 0, 0)
            new = self.log.changes[self._projected :]
            now = max(self._served.rt.clock(), *(change.recorded_at for change in self.log.changes))
            # As the projector does where nothing follows: it says what time it is, so that all of it is shown.
            await SINK.apply(
                connection, ChangeBatch(0, self._next, self._next + len(new) + 1, [*new, Tick(recorded_at=now + 1)])
            )
        self._next += len(new) + 1
        self._projected = len(self.log.changes)


async def get(served: Gateway, key: str = "", **params: str) -> httpx.Response:
    return await served.http.get("/v1/Email/", params=params, headers={"X-Api-Key": key or served.key})


async def pages(served: Gateway, between: Any = None, **params: str) -> list[dict[str, Any]]:
    """All pages' emails; ``between`` runs after each page."""
    emails: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        answer = await get(served, **params, **more)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert len(body["Emails"]) <= 100
        emails += body["Emails"]
        if "Next" not in body:
            return emails
        more = {"Next": body["Next"]}
        if between is not None:
            await between()


def ids(emails: Sequence[dict[str, Any]]) -> list[str]:
    return [email["MessageId"] for email in emails]


async def test_a_thousand_emails_that_change_while_somebody_pages_are_each_seen_once_as_they_were(
    settings: Settings,
) -> None:
    async with gateway(settings) as served:
        grown = Grown(served)
        for number in range(1000):
            grown.log.fold(request(number, T0 + number)).fold(acked(number, T0 + number + 1))
        await grown.project()
        turn = iter(range(100))

        async def change() -> None:
            now, nth = served.rt.clock(), next(turn)
            for number in range(nth * 30, 1000, 7):
                grown.log.fold(event(number, EventKind.DELIVERED, now + 1))
            for number in range(1000 + nth * 10, 1010 + nth * 10):
                grown.log.fold(request(number, now + 1)).fold(acked(number, now + 2))
            await grown.project()

        seen = await pages(served, change)
        assert ids(seen) == [identified(number) for number in reversed(range(1000))]
        assert {email["State"] for email in seen} == {"sent"}
        as_of = max(email["LastUpdated"] for email in seen)
        assert ids(await pages(served, After=str(as_of))) == ids(seen)
        now = await pages(served)
        assert len(now) > 1000
        assert {email["State"] for email in now} == {"sent", "delivered"}


async def test_each_filter_alone_and_together(settings: Settings) -> None:
    async with gateway(settings) as served:
        grown = Grown(served)
        for number in range(12):
            grown.log.fold(request(number, T0 + number * 1000)).fold(acked(number, T0 + number * 1000 + 1))
            if number % 3 == 0:
                grown.log.fold(event(number, EventKind.BOUNCED, T0 + number * 1000 + 500))
        grown.log.fold(request(99, T0))
        await grown.project()
        everything = await pages(served)
        assert ids(everything) == [identified(number) for number in reversed(range(12))]
        assert identified(99) not in ids(everything), "only accepted"
        bounced = await pages(served, State="bounced")
        assert ids(bounced) == [identified(number) for number in (9, 6, 3, 0)]
        one = await pages(served, BrandId=brand_uuid("acme", "1"))
        assert ids(one) == [identified(number) for number in (10, 8, 6, 4, 2, 0)]
        assert ids(await pages(served, BrandId="1")) == ids(one), "a brand's own name names it, too"
        both = await pages(served, BrandId=brand_uuid("acme", "1"), State="bounced")
        assert ids(both) == [identified(number) for number in (6, 0)]
        early = await pages(served, After=str(T0 // 1000 + 4))
        assert ids(early) == [identified(number) for number in reversed(range(5))]
        emails = await pages(served, Email="player3@example.com", State="sent", After="soon", BrandId="2")
        assert ids(emails) == [identified(3)]
        assert await pages(served, Email="PLAYER3@example.com") == [], "a direct match"


async def test_pages_of_one_address_go_on_too(settings: Settings) -> None:
    async with gateway(settings) as served:
        grown = Grown(served)
        for number in range(150):
            same = msgspec.structs.replace(request(number, T0 + number), recipient="anna@example.com")
            grown.log.fold(same).fold(acked(number, T0 + number + 1))
        await grown.project()
        assert len(set(ids(await pages(served, Email="anna@example.com")))) == 150


async def test_a_tenant_sees_its_own_emails_only_and_no_cursor_helps(settings: Settings) -> None:
    async with gateway(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        other = await admin.add_key(served.rt.pool, "other")
        grown = Grown(served)
        for number in range(150):
            grown.log.fold(request(number, T0 + number)).fold(acked(number, T0 + number + 1))
        await grown.project()
        assert (await get(served, other)).json() == {"Emails": []}
        assert (await get(served, other, Email="player3@example.com")).json() == {"Emails": []}
        behind = (await get(served)).json()["Next"]
        stolen = await get(served, other, Next=behind)
        assert stolen.status_code == 400
        assert "another tenant" in stolen.json()["Error"]
        assert (await get(served, "mf_wrong")).status_code == 401


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"State": "opened"}, "State: must be one of sent, delivered, bounced, complaint"),
        ({"After": "yesterday"}, "After: must be a unix time in whole seconds"),
        ({"Next": "x"}, "Next is not a cursor of ours"),
        ({"Next": "\ud7ff\x00"}, "Next is not a cursor of ours"),
    ],
)
async def test_a_malformed_parameter_is_a_400_that_says_which(
    settings: Settings, params: dict[str, str], error: str
) -> None:
    async with gateway(settings) as served:
        answer = await get(served, **params)
        assert answer.status_code == 400
        assert list(answer.json()) == ["Error"]
        assert error in answer.json()["Error"]


async def test_oddities_in_parameters_are_never_a_500(settings: Settings) -> None:
    async with gateway(settings) as served:
        for params in (
            {"Email": "\x00"},
            {"BrandId": "\x00😀"},
            {"Unknown": "x"},
            {"After": "0"},
            {"Email": "x" * 5000},
        ):
            answer = await get(served, **params)
            assert (answer.status_code, answer.json()) == (200, {"Emails": []})


async def test_the_documentation_shows_the_surface(settings: Settings) -> None:
    async with gateway(settings) as served:
        paths = (await served.http.get("/openapi.json")).json()["paths"]
        operation = paths["/v1/Email/"]["get"]
        assert {"BrandId", "Next", "After", "State", "Email"} <= {one["name"] for one in operation["parameters"]}
        assert (
            operation["responses"]["200"]["content"]["application/json"]["example"]["Emails"][0]["State"] == "delivered"
        )


FILL = """
insert into projections.history (email_id, partition, tenant, brand_uuid, recipient, status, listed, sent_at,
    updated_at, version, valid_from, state)
select gen_random_uuid(), 0, 'acme', '7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02', 'p' || n, 'sent',
    (array['sent', 'delivered', 'bounced', 'complaint'])[1 + (n % 97 = 0)::int * 3], n, n, 3, n + 20, ''
from generate_series(1, 60000) n;
insert into projections.versions (email_id, version, tenant, brand_uuid, recipient, listed, sent_at, valid_from,
    valid_to, state)
select gen_random_uuid(), v, 'acme', '7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02', 'p' || n, 'sent', n, n + v, n + v + 10, ''
from generate_series(1, 60000) n, generate_series(1, 2) v;
analyze projections.history;
analyze projections.versions;
"""


async def test_no_page_reads_a_whole_table(settings: Settings) -> None:
    brand = "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02"
    questions = [
        HistoryQuery(tenant="acme", filter=each, as_of=as_of, start_after=behind)
        for each in (
            HistoryFilter(),
            HistoryFilter(listed=ListedState.COMPLAINT),
            HistoryFilter(brand_uuid=brand),
            HistoryFilter(brand_uuid=brand, listed=ListedState.COMPLAINT),
            HistoryFilter(recipient="p77"),
        )
        for as_of in (99_999, 30_000)
        for behind in (None, HistoryPosition(20_000, identified(1)))
    ]
    async with gateway(settings):
        url = settings.database_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(FILL.encode())
            for query in questions:
                read = await _rows_read(connection, query)
                assert read < 6000, query


async def _rows_read(connection: psycopg.AsyncConnection[Any], query: HistoryQuery) -> int:
    """Rows that the plan's scans touched, those filtered away included; no scan may be sequential."""
    values = {
        "tenant": query.tenant,
        "as_of": query.as_of,
        "listed": query.filter.listed and query.filter.listed.value,
        "brand_uuid": query.filter.brand_uuid or None,
        "recipient": query.filter.recipient,
        "sent_at": query.start_after and query.start_after.sent_at,
        "email_id": query.start_after and query.start_after.email_id,
        "limit": 101,
    }
    text = SQL["page_of_recipient" if query.filter.recipient else "page"]
    # Sent as one text: EXPLAIN takes no parameters, and the page is planned with its values, too.
    statement = psycopg.AsyncClientCursor(connection).mogrify(text, values)
    explained = await connection.execute(b"explain (analyze, format json) " + statement.encode())
    row = await explained.fetchone()
    assert row is not None
    return _touched(row[0][0]["Plan"])


def _touched(plan: dict[str, Any]) -> int:
    assert plan["Node Type"] != "Seq Scan", plan
    below = sum(_touched(part) for part in plan.get("Plans", ()))
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) if "Scan" in plan["Node Type"] else 0
    return int(below + own * plan["Actual Loops"])
