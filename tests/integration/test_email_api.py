"""The history API `/api/v1` over real HTTP, on tables that the real sink wrote."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest

from pipeline import admin
from pipeline.admin import KeyLimits, KeyScope
from pipeline.gateway.tenant_questions import QUESTIONS_AT_ONCE
from pipeline.runtime.postgres.database import autocommit_connection
from pipeline.runtime.secrets.signing import AddressHasher, Signer, canonical_address, hash_address
from pipeline.runtime.tasks import cancel_tasks
from pipeline.settings import Settings
from projections import email_cursor, email_queries
from projections.email_listing import EmailPosition, EmailQuery
from projections.sink import ChangeBatch, Sink
from tests.conftest import RING
from tests.support.changes import T0, Log, acked, conversion_result, event, identified, request
from tests.support.gateway import Gateway, gateway
from tests.support.history_oracle import project_all, varied_log
from tests.support.tables import empty
from topics.changes import EmailChange, Tick
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import EventKind
from topics.ids import brand_uuid

SINK = Sink(functools.partial(hash_address, AddressHasher(RING)), normalize_address=canonical_address)
END = T0 + 1_000_000


class GrowingLog:
    """One partition that is projected as it grows."""

    def __init__(self, served: Gateway) -> None:
        self.log = Log()
        self._served, self._next, self._projected = served, 0, 0

    async def project(self, now: int = END) -> None:
        """Project what is new, and a tick that says what time it is."""
        records: list[EmailChange | Tick] = [*self.log.changes[self._projected :], Tick(recorded_at=now)]
        async with self._served.rt.pool.connection() as connection:
            await SINK.start(connection, 0, 0, 0)
            await SINK.apply(connection, ChangeBatch(0, self._next, self._next + len(records), records))
        self._next += len(records)
        self._projected = len(self.log.changes)


async def get(served: Gateway, path: str = "emails", key: str = "", **params: Any) -> httpx.Response:
    return await served.http.get(f"/api/v1/{path}", params=params, headers={"X-Api-Key": key or served.key})


async def ok(served: Gateway, path: str = "emails", **params: Any) -> Any:
    answer = await get(served, path, **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(emails: Sequence[dict[str, Any]]) -> list[str]:
    return [email["email_id"] for email in emails]


async def scoped(served: Gateway, *scopes: KeyScope, brand: str = "") -> str:
    limits = KeyLimits(scopes=frozenset(scopes), brand=brand)
    return await admin.add_key(served.rt.pool, "acme", limits=limits)


async def some_emails(served: Gateway) -> GrowingLog:
    """Project ten emails that were sent, of which every third bounced."""
    grown = GrowingLog(served)
    for number in range(10):
        at = T0 + number * 1000
        grown.log.fold(request(number, at)).fold(acked(number, at + 10))
        if number % 3 == 0:
            grown.log.fold(event(number, EventKind.BOUNCED, at + 100))
    await grown.project()
    return grown


async def test_pages_show_one_moment_and_cursor_carries_question(settings: Settings) -> None:
    async with gateway(settings) as served:
        grown = await some_emails(served)
        first = await ok(served, status="sent", limit=2, fields="status,facts.sent.count", count="exact")
        assert ids(first["emails"]) == [identified(8), identified(7)]
        assert first["emails"][0] == {"email_id": identified(8), "status": "sent", "facts": {"sent": {"count": 1}}}
        assert (first["count"], first["count_kind"]) == (6, "exact")
        for number in range(10):
            grown.log.fold(event(number, EventKind.DELIVERED, END + number))
        await grown.project(END + 1000)
        second = await ok(served, cursor=first["next"])
        assert ids(second["emails"]) == [identified(5), identified(4)]
        assert {email["status"] for email in second["emails"]} == {"sent"}, "as of the first page's moment"
        assert second["as_of"] == first["as_of"]
        refused = await get(served, cursor=first["next"], status="bounced")
        assert refused.status_code == 400
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["where"] == "cursor"
        assert "another statuses" in refused.json()["detail"]


async def change_all(served: Gateway, logs: Sequence[Log], done: asyncio.Event) -> None:
    """Change every email again and again."""
    nth, places = 0, [len(log.changes) + 1 for log in logs]
    while not done.is_set():
        nth += 1
        for log in logs:
            for number in range(log.partition, 60, 2):
                log.fold(event(number, EventKind.CLICKED, END + nth, nth=nth))
            records: list[EmailChange | Tick] = [*log.changes[-30:], Tick(recorded_at=END + nth)]
            start = places[log.partition]
            async with served.rt.pool.connection() as connection:
                await SINK.apply(connection, ChangeBatch(log.partition, start, start + len(records), records))
            places[log.partition] += len(records)


async def test_same_question_has_same_bytes_while_changes_stream_in_and_after_a_rebuild(settings: Settings) -> None:
    logs = [varied_log(5, number, 30) for number in range(2)]
    async with gateway(settings) as served:
        async with served.rt.pool.connection() as connection:
            await project_all(connection, SINK, logs, END)
        questions: list[dict[str, Any]] = [
            {"as_of": str(T0 + 20_000), "limit": "7"},
            {"as_of": str(T0 + 40_000), "order": "updated", "status": ["delivered", "opened"], "count": "exact"},
            {"as_of": str(T0 + 60_000), "order": "sent", "direction": "asc", "fact": "delivered", "count": "estimate"},
            {"as_of": str(END - 1), "activity_id": "1", "fields": "status,activity,updated_at"},
        ]
        paths = [(identified(number), part) for number in (1, 2) for part in ("", "/timeline", "/versions")]

        async def answers() -> list[bytes]:
            listed = [(await get(served, **question)).content for question in questions]
            shown = [
                (await get(served, f"emails/{email_id}{part}", as_of=str(T0 + 30_000))).content
                for email_id, part in paths
            ]
            feed = (await get(served, "changes", limit=500)).json()
            return [*listed, *shown, msgspec.json.encode(feed["changes"][:100])]

        before = await answers()
        assert all(b"email_id" in answer for answer in before)
        done = asyncio.Event()
        streaming = asyncio.create_task(change_all(served, logs, done))
        for _ in range(5):
            assert await answers() == before
        done.set()
        await streaming
        async with served.rt.pool.connection() as connection:
            await empty(connection)
            await project_all(connection, SINK, logs, END + 100_000)
        assert await answers() == before


async def test_one_email_its_timeline_and_versions_as_of_a_moment(settings: Settings) -> None:
    async with gateway(settings) as served:
        grown = GrowingLog(served)
        grown.log.fold(request(1, T0)).fold(acked(1, T0 + 1000)).fold(event(1, EventKind.DELIVERED, T0 + 2000))
        told = conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0 + 3000)
        grown.log.fold(told).fold(told)
        await grown.project()
        path = f"emails/{identified(1)}"
        assert (await ok(served, path))["email"]["status"] == "delivered"
        then = await ok(served, path, as_of=str(T0 + 1500))
        assert (then["email"]["status"], then["email"]["version"]) == ("sent", 2)
        assert then["as_of"] == "2023-11-14T22:13:21.500Z"
        assert (await get(served, path, as_of=str(T0 - 1))).status_code == 404
        timeline = (await ok(served, f"{path}/timeline"))["timeline"]
        assert [entry["kind"] for entry in timeline] == ["accepted", "acked", "delivered", "conversion"]
        assert timeline[-1]["duplicates"] == 1
        assert timeline[-1]["details"]["attempt"] == 1
        early = (await ok(served, f"{path}/timeline", as_of=str(T0 + 1500)))["timeline"]
        assert [entry["kind"] for entry in early] == ["accepted", "acked"]
        versions = (await ok(served, f"{path}/versions"))["versions"]
        assert [version["version"] for version in versions] == [1, 2, 3, 4]
        assert [version["status"] for version in versions][:3] == ["accepted", "sent", "delivered"]
        rest = await ok(served, f"{path}/versions", after_version=2, as_of=str(T0 + 2500))
        assert [version["version"] for version in rest["versions"]] == [3]


@pytest.mark.parametrize("part", ["", "/timeline", "/versions"])
async def test_unknown_and_other_tenants_emails_are_not_found(settings: Settings, part: str) -> None:
    async with gateway(settings) as served:
        await some_emails(served)
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        other = await admin.add_key(served.rt.pool, "other")
        for key, email_id in ((other, identified(1)), (served.key, identified(77)), (served.key, "nonsense")):
            answer = await get(served, f"emails/{email_id}{part}", key)
            assert answer.status_code == 404
            assert answer.json() == {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "no email with this id was known at this moment",
                "where": "path.email_id",
            }
        assert (await get(served, key=other)).json()["emails"] == []


async def test_addresses_need_their_scope(settings: Settings) -> None:
    async with gateway(settings) as served:
        await some_emails(served)
        key = await scoped(served, KeyScope.HISTORY_READ)
        for path in ("emails", f"emails/{identified(3)}", f"emails/{identified(3)}/timeline", "changes"):
            masked = (await get(served, path, key)).text
            assert "player" not in masked, path
            assert "player" in (await get(served, path)).text, path
        assert (await get(served, key=key, recipient="player3@example.com")).status_code == 403
        body = {"recipient": "PLAYER3@Example.com", "fields": "recipient"}
        lookup = functools.partial(served.http.post, "/api/v1/emails/lookup", json=body)
        assert (await lookup(headers={"X-Api-Key": key})).status_code == 403
        found = (await lookup(headers={"X-Api-Key": served.key})).json()
        assert found["emails"] == [{"email_id": identified(3), "recipient": "player3@example.com"}]


async def test_key_of_a_brand_sees_that_brand_only(settings: Settings) -> None:
    async with gateway(settings) as served:
        await some_emails(served)
        key = await scoped(served, KeyScope.HISTORY_READ, brand="1")
        emails = (await get(served, key=key)).json()["emails"]
        assert {email["brand_id"] for email in emails} == {brand_uuid("acme", "1")}
        assert len(emails) == 5
        assert (await get(served, key=key, brand="2")).status_code == 403
        assert (await get(served, f"emails/{identified(1)}", key)).status_code == 404
        changes = (await get(served, "changes", key, limit=500)).json()["changes"]
        assert {change["brand"] for change in changes} == {"1"}


async def test_feed_goes_on_from_its_token_and_waits_for_changes(settings: Settings) -> None:
    async with gateway(settings) as served:
        grown = await some_emails(served)
        seen, since = [], ""
        while True:
            page = await ok(served, "changes", since=since, limit=5)
            seen += [(change["valid_from"], change["email_id"], change["version"]) for change in page["changes"]]
            since = page["next"]
            if not page["more"]:
                break
        assert len(seen) == len(set(seen)) == 24
        assert seen == sorted(seen)
        assert (await ok(served, "changes", since=since))["changes"] == []
        waiting = asyncio.create_task(ok(served, "changes", since=since, wait=30))
        await asyncio.sleep(0)
        grown.log.fold(event(1, EventKind.DELIVERED, END + 5))
        await grown.project(END + 1000)
        late = await waiting
        assert [(change["email_id"], change["status"]) for change in late["changes"]] == [(identified(1), "delivered")]
        again = await ok(served, "changes", since=str(END))
        assert ids(again["changes"]) == [identified(1)]
        refused = await get(served, "changes", since="nonsense")
        assert (refused.status_code, refused.json()["where"]) == (400, "since")


async def test_question_that_takes_too_long_says_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(settings) as served:
        await some_emails(served)
        monkeypatch.setattr(email_queries, "find_emails", _sleep)
        monkeypatch.setattr(email_queries, "QUERY_TIMEOUT", "50ms")
        answer = await get(served)
        assert answer.status_code == 504
        assert "ask for less" in answer.json()["detail"]


async def test_slow_questions_of_a_tenant_leave_connections_to_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(settings) as served, contextlib.AsyncExitStack() as held:
        await some_emails(served)
        await get(served)
        monkeypatch.setattr(email_queries, "find_emails", _hold_connection)
        slow = [asyncio.create_task(get(served)) for _ in range(QUESTIONS_AT_ONCE + 1)]
        done, running = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
        refused = done.pop().result()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert len(running) == QUESTIONS_AT_ONCE
        for _ in range(served.rt.pool.max_size):
            await held.enter_async_context(served.rt.pool.connection())
        assert not any(task.done() for task in running)
        await cancel_tasks(running)


async def test_moment_that_is_not_projected_yet_is_not_answered_with_another(settings: Settings) -> None:
    async with gateway(settings) as served:
        await some_emails(served)
        early = await get(served, as_of=str(END))
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        to_come = await ok(served, as_of="2999-01-01T00:00:00Z")
        assert to_come["as_of"] == (await ok(served))["as_of"]
        signer = Signer(RING, "cursor")
        shown = email_cursor.EmailQuestion()
        position = EmailPosition(END, identified(1))
        query = EmailQuery(tenant="acme", as_of=2**42)
        cursor = email_cursor.encode_email_cursor(signer.tag, query, shown, position)
        assert (await get(served, cursor=cursor)).status_code == 503


async def test_query_ends_when_its_client_leaves(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(settings) as served:
        await some_emails(served)
        monkeypatch.setattr(email_queries, "find_emails", _sleep)
        with pytest.raises(httpx.ReadTimeout):
            await served.http.get("/api/v1/emails", headers={"X-Api-Key": served.key}, timeout=1)
        # Each look in a transaction of its own: within one, pg_stat_activity does not change.
        async with autocommit_connection(served.rt.pool) as connection:
            query = "select count(*) from pg_stat_activity where query like '%%pg_sleep(9)%%' and state = 'active'"
            deadline = time.monotonic() + 5
            while (row := await (await connection.execute(query)).fetchone()) != (1,):  # this query itself
                assert time.monotonic() < deadline, row
                await asyncio.sleep(0.05)


async def _hold_connection(_connection: Any, _query: Any) -> Any:
    await asyncio.Event().wait()


async def _sleep(connection: Any, _query: Any) -> Any:
    await connection.execute("select pg_sleep(9)")
    raise AssertionError("it was not ended")
