"""Suppressions on real Kafka and Postgres: heard, decided, listed, lifted, imported, exported, made anew."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline import admin
from pipeline.errors import LogUnavailable
from pipeline.project import main as project
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.signing import Signer, hash_address
from pipeline.settings import Settings
from pipeline.suppressions.commands import SuppressionCommand, SuppressionCommandHandler
from tests.conftest import SECRET
from tests.support.changes import Log, event, identified, request
from tests.support.command import Said, mailfold_on
from tests.support.gateway import gateway
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import records, until
from tests.support.suppressed import ask, listing, publish
from tests.support.working import beside
from topics.events import BounceClass, EventKind
from topics.record import LogPosition
from topics.registry import SUPPRESSIONS
from topics.suppressions import AddressLifted, AddressListed

DAY = 86_400_000


def hashed(address: str) -> str:
    return hash_address(Signer(SECRET, "address"), address).hex()


def told(number: int, at: int, kind: EventKind, recipient: str, brand: str = "7", **changed: Any) -> Log:
    """An email of this brand to this address, and what became of it."""
    asked = msgspec.structs.replace(request(number, at), recipient=recipient, brand=brand)
    return Log().fold(asked, msgspec.structs.replace(event(number, kind, at), **changed))


def soft(number: int, at: int, recipient: str) -> Log:
    return told(number, at, EventKind.BOUNCED, recipient, bounce_class=BounceClass.SOFT, bounce_type="full")


async def test_what_emails_told_is_listed_with_reason_event_and_time_brand_by_brand(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        now = served.rt.clock()
        await publish(
            served,
            told(1, now, EventKind.BOUNCED, "Gone@example.com"),
            told(2, now, EventKind.COMPLAINED, "angry@example.com", "8"),
            told(3, now, EventKind.UNSUBSCRIBED, "out@example.com"),
            told(4, now, EventKind.DELIVERED, "fine@example.com"),
            *(soft(number, now - number * DAY, "full@example.com") for number in range(11, 16)),
            *(soft(number, now - number * DAY, "often-full@example.com") for number in range(21, 25)),
            *(soft(number, now - number * DAY, "full-once@example.com") for number in range(25, 30)),
            told(30, now - 20 * DAY, EventKind.DELIVERED, "full-once@example.com"),
        )
        found = {one["address_hash"]: one for one in await listing(served)}
        assert {name: (one["brand"], one["reason"], one["event_id"]) for name, one in found.items()} == {
            hashed("gone@example.com"): ("7", "hard bounce", "sg:1:bounced:0"),
            hashed("angry@example.com"): ("8", "complaint", "sg:2:complained:0"),
            hashed("out@example.com"): ("7", "unsubscribe", "sg:3:unsubscribed:0"),
            hashed("full@example.com"): ("7", "soft bounce", "sg:11:bounced:0"),
        }
        gone = found[hashed("gone@example.com")]
        assert (gone["since"], gone["email_id"], gone["listed"]) == (now + 2, identified(1), False)
        assert "gone@example.com" not in str(found).lower()
        assert [one["brand"] for one in await listing(served, brand="8")] == ["8"]
        assert [one["reason"] for one in await listing(served, reason="unsubscribe")] == ["unsubscribe"]
        assert [one["event_id"] for one in await listing(served, address="GONE@example.com")] == [gone["event_id"]]
        pages = await listing(served, limit=1)
        assert [one["address_hash"] for one in pages] == sorted(found)


async def test_one_domain_is_one_address_and_an_old_key_is_lifted_with_todays(settings: Settings) -> None:
    old = Signer(SECRET, "address").digest("user@bücher.example".encode()).hex()
    async with gateway_and_projector(settings) as served:

        async def suppressed(address: str) -> bool:
            return bool(await listing(served, address=address, brand="7"))

        for address in (old, "user@strasse.example"):
            assert (await ask(served, "POST", "/suppressions", json={"address": address, "brand": "7"})).is_success
        spellings = ("user@bücher.example", "USER@BÜCHER.example", "user@xn--bcher-kva.example")
        assert [await suppressed(spelling) for spelling in spellings] == [True] * 3
        assert await suppressed("user@strasse.example")
        assert not await suppressed("user@straße.example")
        lifted = await ask(served, "DELETE", "/suppressions/user@xn--bcher-kva.example", params={"brand": "7"})
        assert lifted.status_code == 200
        assert [await suppressed(spelling) for spelling in (*spellings, old)] == [False] * 4
        wanted = {"address": "user@xn--bcher-kva.example", "brand": "7"}
        assert (await ask(served, "POST", "/suppressions", json=wanted)).status_code == 201
        assert [await suppressed(spelling) for spelling in spellings] == [True] * 3


async def test_an_operator_lists_lifts_and_lists_again_and_the_log_has_hashes_only(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        wanted = {"address": "Anna@Example.com", "brand": "7", "reason": "complaint", "note": "called us"}
        first = await ask(served, "POST", "/suppressions", json=wanted)
        again = await ask(served, "POST", "/suppressions", json=wanted)
        assert (first.status_code, again.status_code) == (201, 200)
        name = first.json()["address_hash"]
        assert name == hashed("anna@example.com")
        [entry] = await listing(served)
        assert (entry["reason"], entry["listed"], entry["note"]) == ("complaint", True, "called us")
        odd = await ask(served, "GET", "/suppressions/a/b+c@example.com")
        assert odd.json()["address_hash"] == hashed("a/b+c@example.com")
        assert (await ask(served, "GET", "/suppressions?address=a/b+c@example.com")).json()["suppressions"] == []
        assert entry["by"] == f"api {admin.key_hash(served.key).hex()[:12]}"
        lifted = await ask(served, "DELETE", f"/suppressions/{name}", params={"brand": "7"})
        assert (lifted.status_code, lifted.json()["in_force"]) == (200, True)
        assert await listing(served) == []
        shown = (await ask(served, "POST", "/suppressions/lookup", json={"address": "anna@example.com"})).json()
        assert (shown["suppressed"], [one["listed"] for one in shown["decisions"]]) == ([], [False])
        assert (await ask(served, "POST", "/suppressions", json=wanted)).status_code == 201
        assert len(await listing(served, brand="7")) == 1
    on_the_log = await records(settings.model_copy(update={"partitions": 1}), SUPPRESSIONS)
    assert [type(record) for *_, record in on_the_log] == [AddressListed, AddressLifted, AddressListed]
    assert {key.decode() for _, _, key, _ in on_the_log} == {f"acme/7/{name}"}
    assert "anna" not in str(on_the_log).lower()


async def test_a_lift_forgives_what_was_heard_before_it_and_not_what_comes_after(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        now = served.rt.clock()
        await publish(served, told(1, now - 9, EventKind.BOUNCED, "gone@example.com"))
        await ask(served, "DELETE", f"/suppressions/{hashed('gone@example.com')}", params={"brand": "7"})
        assert await listing(served) == []
        await publish(served, told(3, served.rt.clock() + 60_000, EventKind.BOUNCED, "gone@example.com"))
        [entry] = await listing(served)
        assert entry["email_id"] == identified(3)
        shown = (await ask(served, "GET", f"/suppressions/{entry['address_hash']}")).json()
        assert [sign["email_id"] for sign in shown["evidence"]] == [identified(1), identified(3)]


async def test_all_brands_are_one_entry_and_the_later_decision_stands(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        name = hashed("anna@example.com")

        async def brands(of: str) -> list[str]:
            answer = (await ask(served, "GET", f"/suppressions/{name}", params={"brand": of})).json()
            return [one["brand"] for one in answer["suppressed"]]

        everywhere = {"address": name, "brand": "*"}
        await ask(served, "POST", "/suppressions", json=everywhere)
        await publish(served, told(1, served.rt.clock(), EventKind.COMPLAINED, "anna@example.com"))
        assert [one["brand"] for one in await listing(served)] == ["*"]
        assert await brands("7") == await brands("never heard of") == ["*"]
        await ask(served, "DELETE", f"/suppressions/{name}", params={"brand": "7"})
        assert (await brands("7"), await brands("8")) == ([], ["*"])
        assert [len(await listing(served, brand=brand, limit=1)) for brand in ("7", "8")] == [0, 1]
        assert (await ask(served, "POST", "/suppressions", json=everywhere)).status_code == 201
        assert await brands("7") == ["*"], "to decide it again is news after a part of it was lifted"
        await ask(served, "DELETE", f"/suppressions/{name}", params={"brand": "*"})
        assert (await brands("7"), await brands("8"), await listing(served)) == ([], [], [])


async def test_files_are_imported_with_a_report_and_exported_so_that_they_can_be_imported(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        now = served.rt.clock()
        await publish(served, told(1, now, EventKind.BOUNCED, "gone@example.com"))
        file = "email,reason\nanna@example.com,BOUNCE\nnobody\nbo@example.com,\nANNA@example.com,BOUNCE\n"
        into = {"brand": "7", "reason": "unsubscribe"}
        report = await ask(served, "POST", "/suppressions/import", params=into, content=file)
        assert report.json() == {
            "listed": 2,
            "unchanged": 1,
            "refused": 1,
            "lines": [{"line": 3, "error": "not an email address"}],
            "projected": True,
        }
        repeat = (await ask(served, "POST", "/suppressions/import", params=into, content=file)).json()
        assert (repeat["listed"], repeat["unchanged"]) == (0, 3)
        found = {one["address_hash"]: one["reason"] for one in await listing(served)}
        assert found == {
            hashed("anna@example.com"): "hard bounce",
            hashed("bo@example.com"): "unsubscribe",
            hashed("gone@example.com"): "hard bounce",
        }
        exported = await ask(served, "GET", "/suppressions/export")
        assert exported.headers["content-type"] == "text/csv; charset=utf-8"
        assert "example.com" not in exported.text
        lines = await ask(served, "GET", "/suppressions/export", params={"format": "jsonl", "addresses": True})
        known = {one["address_hash"]: one["address"] for one in map(json.loads, lines.text.splitlines())}
        assert known[hashed("gone@example.com")] == "gone@example.com", "the history knows it"
        assert known[hashed("anna@example.com")] == "", "nobody keeps the address of what was listed by hand"
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(served.rt.pool, "other")
        moved = await ask(served, "POST", "/suppressions/import", key=key, content=exported.content)
        assert (moved.json()["listed"], moved.json()["refused"]) == (3, 0)


async def test_a_tenant_sees_and_lifts_its_own_only(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(served.rt.pool, "other")
        for number in range(3):
            await ask(served, "POST", "/suppressions", json={"address": f"a{number}@example.com", "brand": "7"})
        page = (await ask(served, "GET", "/suppressions", params={"limit": 1})).json()
        assert (await ask(served, "GET", "/suppressions", key=key)).json()["suppressions"] == []
        for path, status in (
            (f"/suppressions?next={page['next']}", 400),
            (f"/suppressions/{hashed('a0@example.com')}?brand=7", 404),
        ):
            method = "GET" if status == 400 else "DELETE"
            answer = await ask(served, method, path, key=key)
            assert (answer.status_code, set(answer.json())) == (status, {"error", "where"})
        exported = await ask(served, "GET", "/suppressions/export", key=key)
        assert len(exported.text.splitlines()) == 1
        assert len(await listing(served)) == 3


WRONG: list[tuple[str, str, Any, str]] = [
    ("POST", "/suppressions", {"address": "nobody", "brand": "7"}, "address"),
    ("POST", "/suppressions", {"address": "a@example.com"}, "body"),
    ("POST", "/suppressions", {"address": "a@example.com", "brand": "7", "reason": "x"}, "body"),
    ("POST", "/suppressions", {"address": "a@example.com", "brand": "7", "note": "is b@example.com"}, "note"),
    ("POST", "/suppressions/import?brand=7", b"\xff\xfe", "body"),
    ("GET", "/suppressions?reason=x", None, "query.reason"),
    ("GET", "/suppressions?next=x", None, "next"),
    ("DELETE", "/suppressions/a@example.com", None, "query.brand"),
    ("GET", "/suppressions/nobody", None, "address"),
]


async def test_what_can_not_be_meant_is_refused_with_its_place_and_nobody_asks_without_a_key(
    settings: Settings,
) -> None:
    async with gateway(settings) as served:
        for method, path, body, where in WRONG:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = await ask(served, method, path, content=content)
            assert (answer.status_code, answer.json()["where"]) == (400, where), answer.text
            assert (await served.http.request(method, path, content=content)).status_code == 401


class Away:
    """A log that confirms nothing."""

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        return [None for _ in entries]


async def test_what_the_log_did_not_confirm_is_not_decided_and_what_nobody_projects_is_told_as_such(
    settings: Settings,
) -> None:
    name = bytes.fromhex(hashed("anna@example.com"))
    async with gateway(settings) as served:
        with pytest.raises(LogUnavailable):
            await SuppressionCommandHandler(served.rt, Away()).suppress(
                SuppressionCommand(tenant="acme", brand="7", by="test"), name
            )
        durable = await ask(served, "POST", "/suppressions", json={"address": name.hex(), "brand": "7"})
        assert (durable.status_code, durable.json()["in_force"]) == (202, False)
        assert await listing(served) == []

        async def in_force() -> bool:
            return [one["address_hash"] for one in await listing(served)] == [name.hex()]

        async with beside(served.rt, project.run):
            await until(in_force)


async def test_lost_tables_are_made_again_from_the_log(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        for number in range(3):
            await ask(served, "POST", "/suppressions", json={"address": f"a{number}@example.com", "brand": "7"})
        await ask(served, "DELETE", f"/suppressions/{hashed('a1@example.com')}", params={"brand": "7"})
        before = await listing(served)
        assert len(before) == 2
    async with gateway(settings) as served, served.rt.pool.connection() as connection:
        for table in ("suppressions.decisions", "suppressions.next_offsets"):
            await connection.execute(f"delete from {table}")  # type: ignore[arg-type,unused-ignore]
    async with gateway_and_projector(settings) as served:

        async def there() -> bool:
            return await listing(served) == before

        await until(there)


async def test_the_command_lists_lifts_imports_shows_and_exports_and_takes_no_address_as_an_argument(
    settings: Settings, tmp_path: Path
) -> None:
    async def said(*arguments: str, stdin: str = "") -> Said:
        return await mailfold_on(settings, "suppressions", *arguments, "--tenant", "acme", stdin=stdin)

    async with gateway_and_projector(settings) as served:
        name = hashed("anna@example.com")
        added = await said(
            "add", "--brand", "7", "--note", "wrote", stdin="anna@example.com\n\nBO@example.com\nnobody\n"
        )
        assert (added.code, added.out) == (1, "2 listed, 0 already were\nline 3: not an email address\n"), added.err
        listed = await said("list")
        assert all(word in listed.out for word in (name, "manual", "wrote", hashed("bo@example.com")))
        await publish(served, told(1, served.rt.clock(), EventKind.COMPLAINED, "anna@example.com"))
        shown = await said("show", stdin="anna@example.com")
        assert f"{name}: suppressed: manual (7)" in shown.out
        assert all(word in shown.out for word in ("complaint", "sg:1:complained:0", "listed: manual"))
        assert json.loads((await said("show", name, "--json")).out)[0]["address_hash"] == name
        removed = await said("remove", "--brand", "*", stdin="anna@example.com\nnever@example.com\n")
        assert (removed.code, "1 of them: lines 2" in removed.err) == (1, True)
        assert [one["address_hash"] for one in json.loads((await said("list", "--json")).out)["suppressions"]] == [
            hashed("bo@example.com")
        ]
        (tmp_path / "ses.csv").write_text("anna@example.com,COMPLAINT\n")
        imported = await said("import", str(tmp_path / "ses.csv"), "--brand", "7", "--json")
        assert json.loads(imported.out) == {"listed": 1, "unchanged": 0, "refused": 0, "lines": [], "projected": True}
        whole = tmp_path / "out.csv"
        exported = await said("export", "--output", str(whole), "--addresses")
        assert exported.code == 0, exported.err
        assert whole.stat().st_mode & 0o777 == 0o600
        assert f"{name},7,complaint," in whole.read_text()
        assert "anna@example.com" in whole.read_text(), "its complaint is in the history"
        assert name in (await said("export")).out
        refused = await said("show", "anna@example.com")
        assert (refused.code, "shell's history" in refused.err) == (1, True)
