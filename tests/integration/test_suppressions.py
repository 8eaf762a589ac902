"""Suppressions on real Kafka and Postgres: evidence, decisions, listings, imports, exports and rebuilt tables."""

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
from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from pipeline.settings import Settings
from pipeline.suppressions.commands import SuppressionCommand, SuppressionCommandHandler
from tests.conftest import RING
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


def hash_of(address: str) -> str:
    return hash_address(AddressHasher(RING), address).hex()


def email_log(number: int, at: int, kind: EventKind, recipient: str, brand: str = "7", **changes: Any) -> Log:
    """Return the log of an email of this brand to this address, with one event of this kind."""
    send_request = msgspec.structs.replace(request(number, at), recipient=recipient, brand=brand)
    return Log().fold(send_request, msgspec.structs.replace(event(number, kind, at), **changes))


def soft_bounce(number: int, at: int, recipient: str) -> Log:
    return email_log(number, at, EventKind.BOUNCED, recipient, bounce_class=BounceClass.SOFT, bounce_type="full")


async def test_evidence_of_emails_is_listed_per_brand_with_reason_event_and_time(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        now = served.rt.clock()
        await publish(
            served,
            email_log(1, now, EventKind.BOUNCED, "Gone@example.com"),
            email_log(2, now, EventKind.COMPLAINED, "angry@example.com", "8"),
            email_log(3, now, EventKind.UNSUBSCRIBED, "out@example.com"),
            email_log(4, now, EventKind.DELIVERED, "fine@example.com"),
            *(soft_bounce(number, now - number * DAY, "full@example.com") for number in range(11, 16)),
            *(soft_bounce(number, now - number * DAY, "often-full@example.com") for number in range(21, 25)),
            *(soft_bounce(number, now - number * DAY, "full-once@example.com") for number in range(25, 30)),
            email_log(30, now - 20 * DAY, EventKind.DELIVERED, "full-once@example.com"),
        )
        entries = {entry["address_hash"]: entry for entry in await listing(served)}
        assert {name: (entry["brand"], entry["reason"], entry["event_id"]) for name, entry in entries.items()} == {
            hash_of("gone@example.com"): ("7", "hard bounce", "sg:1:bounced:0"),
            hash_of("angry@example.com"): ("8", "complaint", "sg:2:complained:0"),
            hash_of("out@example.com"): ("7", "unsubscribe", "sg:3:unsubscribed:0"),
            hash_of("full@example.com"): ("7", "soft bounce", "sg:11:bounced:0"),
        }
        bounced = entries[hash_of("gone@example.com")]
        assert (bounced["since"], bounced["email_id"], bounced["listed"]) == (now + 2, identified(1), False)
        assert "gone@example.com" not in str(entries).lower()
        assert [entry["brand"] for entry in await listing(served, brand="8")] == ["8"]
        assert [entry["reason"] for entry in await listing(served, reason="unsubscribe")] == ["unsubscribe"]
        assert [entry["event_id"] for entry in await listing(served, address="GONE@example.com")] == [
            bounced["event_id"]
        ]
        all_pages = await listing(served, limit=1)
        assert [entry["address_hash"] for entry in all_pages] == sorted(entries)


async def test_spellings_of_a_domain_are_one_address_and_its_old_hash_is_lifted_with_it(settings: Settings) -> None:
    old_hash = AddressHasher(RING).digest("user@bücher.example".encode()).hex()
    async with gateway_and_projector(settings) as served:

        async def is_suppressed(address: str) -> bool:
            return bool(await listing(served, address=address, brand="7"))

        for address in (old_hash, "user@strasse.example"):
            assert (await ask(served, "POST", "/suppressions", json={"address": address, "brand": "7"})).is_success
        spellings = ("user@bücher.example", "USER@BÜCHER.example", "user@xn--bcher-kva.example")
        assert [await is_suppressed(spelling) for spelling in spellings] == [True] * 3
        assert await is_suppressed("user@strasse.example")
        assert not await is_suppressed("user@straße.example")
        lifted = await ask(served, "DELETE", "/suppressions/user@xn--bcher-kva.example", params={"brand": "7"})
        assert lifted.status_code == 200
        assert [await is_suppressed(spelling) for spelling in (*spellings, old_hash)] == [False] * 4
        body = {"address": "user@xn--bcher-kva.example", "brand": "7"}
        assert (await ask(served, "POST", "/suppressions", json=body)).status_code == 201
        assert [await is_suppressed(spelling) for spelling in spellings] == [True] * 3


async def test_address_is_listed_lifted_and_listed_again_and_only_its_hash_is_on_the_log(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        body = {"address": "Anna@Example.com", "brand": "7", "reason": "complaint", "note": "called us"}
        first = await ask(served, "POST", "/suppressions", json=body)
        repeated = await ask(served, "POST", "/suppressions", json=body)
        assert (first.status_code, repeated.status_code) == (201, 200)
        name = first.json()["address_hash"]
        assert name == hash_of("anna@example.com")
        [entry] = await listing(served)
        assert (entry["reason"], entry["listed"], entry["note"]) == ("complaint", True, "called us")
        with_slash = await ask(served, "GET", "/suppressions/a/b+c@example.com")
        assert with_slash.json()["address_hash"] == hash_of("a/b+c@example.com")
        assert (await ask(served, "GET", "/suppressions?address=a/b+c@example.com")).json()["suppressions"] == []
        assert entry["by"] == f"api {admin.key_hash(served.key).hex()[:12]}"
        lifted = await ask(served, "DELETE", f"/suppressions/{name}", params={"brand": "7"})
        assert (lifted.status_code, lifted.json()["in_force"]) == (200, True)
        assert await listing(served) == []
        assessment = (await ask(served, "POST", "/suppressions/lookup", json={"address": "anna@example.com"})).json()
        assert (assessment["suppressed"], [decision["listed"] for decision in assessment["decisions"]]) == ([], [False])
        assert (await ask(served, "POST", "/suppressions", json=body)).status_code == 201
        assert len(await listing(served, brand="7")) == 1
    log_records = await records(settings.model_copy(update={"partitions": 1}), SUPPRESSIONS)
    assert [type(record) for *_, record in log_records] == [AddressListed, AddressLifted, AddressListed]
    assert {key.decode() for _, _, key, _ in log_records} == {f"acme/7/{name}"}
    assert "anna" not in str(log_records).lower()


async def test_lift_cancels_earlier_evidence_only(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        now = served.rt.clock()
        await publish(served, email_log(1, now - 9, EventKind.BOUNCED, "gone@example.com"))
        await ask(served, "DELETE", f"/suppressions/{hash_of('gone@example.com')}", params={"brand": "7"})
        assert await listing(served) == []
        await publish(served, email_log(3, served.rt.clock() + 60_000, EventKind.BOUNCED, "gone@example.com"))
        [entry] = await listing(served)
        assert entry["email_id"] == identified(3)
        assessment = (await ask(served, "GET", f"/suppressions/{entry['address_hash']}")).json()
        assert [evidence["email_id"] for evidence in assessment["evidence"]] == [identified(1), identified(3)]


async def test_decision_for_all_brands_is_one_entry_and_the_latest_decision_counts(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        name = hash_of("anna@example.com")

        async def suppressing_brands(brand: str) -> list[str]:
            answer = (await ask(served, "GET", f"/suppressions/{name}", params={"brand": brand})).json()
            return [entry["brand"] for entry in answer["suppressed"]]

        for_all_brands = {"address": name, "brand": "*"}
        await ask(served, "POST", "/suppressions", json=for_all_brands)
        await publish(served, email_log(1, served.rt.clock(), EventKind.COMPLAINED, "anna@example.com"))
        assert [entry["brand"] for entry in await listing(served)] == ["*"]
        assert await suppressing_brands("7") == await suppressing_brands("never heard of") == ["*"]
        await ask(served, "DELETE", f"/suppressions/{name}", params={"brand": "7"})
        assert (await suppressing_brands("7"), await suppressing_brands("8")) == ([], ["*"])
        assert [len(await listing(served, brand=brand, limit=1)) for brand in ("7", "8")] == [0, 1]
        assert (await ask(served, "POST", "/suppressions", json=for_all_brands)).status_code == 201
        assert await suppressing_brands("7") == ["*"], "listing it again takes effect after it was lifted for one brand"
        await ask(served, "DELETE", f"/suppressions/{name}", params={"brand": "*"})
        assert (await suppressing_brands("7"), await suppressing_brands("8"), await listing(served)) == ([], [], [])


async def test_files_are_imported_with_a_report_and_exports_can_be_imported(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        now = served.rt.clock()
        await publish(served, email_log(1, now, EventKind.BOUNCED, "gone@example.com"))
        file = "email,reason\nanna@example.com,BOUNCE\nnobody\nbo@example.com,\nANNA@example.com,BOUNCE\n"
        defaults = {"brand": "7", "reason": "unsubscribe"}
        report = await ask(served, "POST", "/suppressions/import", params=defaults, content=file)
        assert report.json() == {
            "listed": 2,
            "unchanged": 1,
            "refused": 1,
            "lines": [{"line": 3, "error": "not an email address"}],
            "projected": True,
        }
        repeated = (await ask(served, "POST", "/suppressions/import", params=defaults, content=file)).json()
        assert (repeated["listed"], repeated["unchanged"]) == (0, 3)
        reasons = {entry["address_hash"]: entry["reason"] for entry in await listing(served)}
        assert reasons == {
            hash_of("anna@example.com"): "hard bounce",
            hash_of("bo@example.com"): "unsubscribe",
            hash_of("gone@example.com"): "hard bounce",
        }
        exported = await ask(served, "GET", "/suppressions/export")
        assert exported.headers["content-type"] == "text/csv; charset=utf-8"
        assert "example.com" not in exported.text
        lines = await ask(served, "GET", "/suppressions/export", params={"format": "jsonl", "addresses": True})
        addresses = {line["address_hash"]: line["address"] for line in map(json.loads, lines.text.splitlines())}
        assert addresses[hash_of("gone@example.com")] == "gone@example.com", "the history contains it"
        assert addresses[hash_of("anna@example.com")] == "", "an imported address is stored as its hash only"
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(served.rt.pool, "other")
        imported = await ask(served, "POST", "/suppressions/import", key=key, content=exported.content)
        assert (imported.json()["listed"], imported.json()["refused"]) == (3, 0)


async def test_tenant_sees_and_lifts_only_its_own_suppressions(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(served.rt.pool, "other")
        for number in range(3):
            await ask(served, "POST", "/suppressions", json={"address": f"a{number}@example.com", "brand": "7"})
        page = (await ask(served, "GET", "/suppressions", params={"limit": 1})).json()
        assert (await ask(served, "GET", "/suppressions", key=key)).json()["suppressions"] == []
        for path, status in (
            (f"/suppressions?next={page['next']}", 400),
            (f"/suppressions/{hash_of('a0@example.com')}?brand=7", 404),
        ):
            method = "GET" if status == 400 else "DELETE"
            answer = await ask(served, method, path, key=key)
            assert (answer.status_code, set(answer.json())) == (status, {"error", "where"})
        exported = await ask(served, "GET", "/suppressions/export", key=key)
        assert len(exported.text.splitlines()) == 1
        assert len(await listing(served)) == 3


INVALID_REQUESTS: list[tuple[str, str, Any, str]] = [
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


async def test_invalid_requests_are_refused_with_their_place_and_all_need_a_key(settings: Settings) -> None:
    async with gateway(settings) as served:
        for method, path, body, where in INVALID_REQUESTS:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = await ask(served, method, path, content=content)
            assert (answer.status_code, answer.json()["where"]) == (400, where), answer.text
            assert (await served.http.request(method, path, content=content)).status_code == 401


class UnavailableLog:
    """A log that confirms no record."""

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        return [None for _ in entries]


async def test_unconfirmed_decision_raises_and_unprojected_one_is_answered_as_not_in_force(settings: Settings) -> None:
    name = bytes.fromhex(hash_of("anna@example.com"))
    async with gateway(settings) as served:
        with pytest.raises(LogUnavailable):
            await SuppressionCommandHandler(served.rt, UnavailableLog()).suppress(
                SuppressionCommand(tenant="acme", brand="7", by="test"), name
            )
        durable = await ask(served, "POST", "/suppressions", json={"address": name.hex(), "brand": "7"})
        assert (durable.status_code, durable.json()["in_force"]) == (202, False)
        assert await listing(served) == []

        async def in_force() -> bool:
            return [entry["address_hash"] for entry in await listing(served)] == [name.hex()]

        async with beside(served.rt, project.run):
            await until(in_force)


async def test_lost_tables_are_rebuilt_from_the_log(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        for number in range(3):
            await ask(served, "POST", "/suppressions", json={"address": f"a{number}@example.com", "brand": "7"})
        await ask(served, "DELETE", f"/suppressions/{hash_of('a1@example.com')}", params={"brand": "7"})
        before = await listing(served)
        assert len(before) == 2
    async with gateway(settings) as served, served.rt.pool.connection() as connection:
        for table in ("suppressions.decisions", "suppressions.next_offsets"):
            await connection.execute(f"delete from {table}")  # type: ignore[arg-type,unused-ignore]
    async with gateway_and_projector(settings) as served:

        async def is_rebuilt() -> bool:
            return await listing(served) == before

        await until(is_rebuilt)


async def test_command_does_what_the_api_does_and_refuses_an_address_as_an_argument(
    settings: Settings, tmp_path: Path
) -> None:
    async def run(*arguments: str, stdin: str = "") -> Said:
        return await mailfold_on(settings, "suppressions", *arguments, "--tenant", "acme", stdin=stdin)

    async with gateway_and_projector(settings) as served:
        name = hash_of("anna@example.com")
        added = await run(
            "add", "--brand", "7", "--note", "wrote", stdin="anna@example.com\n\nBO@example.com\nnobody\n"
        )
        assert (added.code, added.out) == (1, "2 listed, 0 already were\nline 3: not an email address\n"), added.err
        listed = await run("list")
        assert all(word in listed.out for word in (name, "manual", "wrote", hash_of("bo@example.com")))
        await publish(served, email_log(1, served.rt.clock(), EventKind.COMPLAINED, "anna@example.com"))
        printed = await run("show", stdin="anna@example.com")
        assert f"{name}: suppressed: manual (7)" in printed.out
        assert all(word in printed.out for word in ("complaint", "sg:1:complained:0", "listed: manual"))
        assert json.loads((await run("show", name, "--json")).out)[0]["address_hash"] == name
        removed = await run("remove", "--brand", "*", stdin="anna@example.com\nnever@example.com\n")
        assert (removed.code, "1 of them: lines 2" in removed.err) == (1, True)
        assert [entry["address_hash"] for entry in json.loads((await run("list", "--json")).out)["suppressions"]] == [
            hash_of("bo@example.com")
        ]
        (tmp_path / "ses.csv").write_text("anna@example.com,COMPLAINT\n")
        imported = await run("import", str(tmp_path / "ses.csv"), "--brand", "7", "--json")
        assert json.loads(imported.out) == {"listed": 1, "unchanged": 0, "refused": 0, "lines": [], "projected": True}
        export_file = tmp_path / "out.csv"
        exported = await run("export", "--output", str(export_file), "--addresses")
        assert exported.code == 0, exported.err
        assert export_file.stat().st_mode & 0o777 == 0o600
        assert f"{name},7,complaint," in export_file.read_text()
        assert "anna@example.com" in export_file.read_text(), "its complaint is in the history"
        assert name in (await run("export")).out
        refused = await run("show", "anna@example.com")
        assert (refused.code, "shell's history" in refused.err) == (1, True)
