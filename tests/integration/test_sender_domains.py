"""Sender domains: added and verified by command, and enforced by a running gateway before it writes anything."""

import contextlib
import threading
import uuid
from collections.abc import AsyncIterator
from typing import Any

import dns.asyncresolver
import httpx
import psycopg
import pytest
from pydantic import SecretStr

from pipeline import admin
from pipeline.admin import Brand, Provider
from pipeline.content.dkim import DkimKey, dns_record, new_key
from pipeline.dispatch.routing.routes import set_dkim
from pipeline.errors import NotFound, Refused
from pipeline.gateway.sender_policy import SenderPolicy
from pipeline.operations.doctor.dns_records import DomainChecker, make_resolver
from pipeline.operations.sender_domains import check_domains
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.runtime.postgres.schema import migrate_database
from pipeline.settings import Settings
from projections.migrate import MIGRATIONS
from tests.conftest import RING
from tests.integration.test_doctor import examined
from tests.support.command import Said, mailfold_on
from tests.support.dialects import BRAND, SURFACES, Surface, email_v1, extrahorizon, freshmail
from tests.support.dns_server import dns_server
from tests.support.fasttrack import activity, message
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import on, rows, until
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS
from topics.requests import Mailbox

PROBLEM = "sender's domain is not a verified one of this tenant"
FROM_OTHERS = {
    "fasttrack": [message(sender_address="boss@bank.example")],
    "email_v1": {"Messages": [email_v1()]},
    "freshmail": freshmail(**{"from": {"name": "Boss", "email": "boss@bank.example"}}),
    "extrahorizon": extrahorizon(**{"from": "Boss <boss@bank.example>"}),
}
"""A request of each dialect from another's domain; one of `/v1/Email/` has its brand's sender."""


async def post(served: Gateway, surface: Surface, body: Any) -> httpx.Response:
    return await served.http.post(surface.path, json=body, headers={"X-Api-Key": served.key})


@contextlib.asynccontextmanager
async def enforcing(settings: Settings, *domains: str) -> AsyncIterator[Gateway]:
    """Run a gateway whose tenant may send from these domains alone."""
    async with gateway(settings) as served:
        pool = served.rt.pool
        await admin.add_provider(pool, Provider("relay", host="127.0.0.1"), RING)
        await admin.add_brand(pool, Brand("acme", BRAND, "relay", sender_address="boss@bank.example"))
        await verify(pool, *domains)
        await admin.require_verified_senders(pool, "acme", is_required=True)
        yield served


async def verify(pool: Pool, *domains: str, brand: str = "*") -> None:
    for domain in domains:
        await admin.add_sender_domain(pool, "acme", domain, brand)
        await admin.note_verified_domain(pool, "acme", domain)


# ------------------------------------------------------------------ at a gateway
async def test_every_dialect_refuses_a_sender_of_another_domain_and_writes_nothing(settings: Settings) -> None:
    async with enforcing(settings, "shop.example") as served:
        answers = {surface.name: await post(served, surface, FROM_OTHERS[surface.name]) for surface in SURFACES}
        batch = answers["fasttrack"].json()
        assert batch["successful"] == []
        [failed] = batch["failed"]
        assert failed["error"] == f"[0].sender_address: the {PROBLEM}"
        [result] = answers["email_v1"].json()["Results"]
        assert (result["Status"], "brand's sender is not a verified one" in result["Error"]) == (403, True)
        assert answers["freshmail"].status_code == 400
        assert answers["freshmail"].json() == {"errors": {"From.email": f"The {PROBLEM}."}}
        assert answers["extrahorizon"].status_code == 403
        assert answers["extrahorizon"].json() == {
            "code": 10,
            "name": "NO_PERMISSION_EXCEPTION",
            "message": f"from: the {PROBLEM}",
        }
        assert await rows(served.rt, "select 1 from intake.identities") == []
    assert await on(settings, SEND_REQUESTS) == []
    assert await on(settings, MESSAGE_CONTENTS) == []


async def test_verified_domain_and_its_subdomains_are_accepted(settings: Settings) -> None:
    async with enforcing(settings, "bank.example", "example.com") as served:
        for surface in SURFACES:
            answer = await post(served, surface, FROM_OTHERS[surface.name])
            assert answer.status_code in (200, 201), (surface.name, answer.text)
            assert "not a verified" not in answer.text
            assert 'failed": [{' not in answer.text
        sub = [message("of a subdomain", sender_address="news@mail.BANK.example")]
        assert len((await post(served, SURFACES[0], sub)).json()["successful"]) == 1
        mixed = [message("mine"), message("theirs", sender_address="x@evil.example")]
        answer = (await post(served, SURFACES[0], mixed)).json()
        assert [item["id"] for item in answer["successful"]] == ["mine"]
        assert [item["id"] for item in answer["failed"]] == ["theirs"]


async def test_senders_of_a_large_request_are_judged_after_its_limit_and_beside_the_event_loop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    problem = SenderPolicy.problem

    def recorded(self: SenderPolicy, brand: str, sender: Mailbox | str | None) -> str:
        threads.append(threading.current_thread())
        return problem(self, brand, sender)

    monkeypatch.setattr(SenderPolicy, "problem", recorded)
    async with enforcing(settings.model_copy(update={"batch_max": 2}), "shop.example") as served:
        for surface, body in (
            (SURFACES[0], [message(f"m{number}", sender_address="boss@bank.example") for number in range(5)]),
            (SURFACES[1], {"Messages": [email_v1(BrandId=str(uuid.uuid4())) for _ in range(5)]}),
        ):
            threads.clear()
            assert (await post(served, surface, body)).status_code == 200
            assert len(threads) == 2, surface.name
            assert threading.main_thread() not in threads, surface.name


async def test_request_without_sender_goes_out_from_the_address_of_the_installation(settings: Settings) -> None:
    async with enforcing(settings) as served:
        assert (await post(served, SURFACES[3], extrahorizon())).status_code == 200


async def test_domain_of_one_brand_is_not_another_brands(settings: Settings) -> None:
    async with enforcing(settings) as served:
        await verify(served.rt.pool, "bank.example", brand="12")

        async def accepted(brand: int) -> bool:
            body = [message(f"of {brand}", sender_address="a@bank.example", activity=activity(id="x", brand_id=brand))]
            return bool((await post(served, SURFACES[0], body)).json()["successful"])

        await until(lambda: accepted(12), patience=5)
        assert not await accepted(13)


async def test_rules_take_effect_at_a_running_gateway(settings: Settings) -> None:
    async with enforcing(settings, "bank.example") as served:

        async def is_accepted() -> bool:
            return bool((await post(served, SURFACES[0], FROM_OTHERS["fasttrack"])).json()["successful"])

        async def is_refused() -> bool:
            return not await is_accepted()

        await until(is_accepted)
        await admin.remove_sender_domain(served.rt.pool, "acme", "BANK.example.")
        await until(is_refused, patience=5)
        await admin.require_verified_senders(served.rt.pool, "acme", is_required=False)
        await until(is_accepted, patience=5)


# ------------------------------------------------------------------ in Postgres
async def test_sender_of_a_brand_must_be_verified_where_it_is_enforced(settings: Settings) -> None:
    async with enforcing(settings, "shop.example") as served:
        pool = served.rt.pool
        with pytest.raises(Refused, match=r"bank.example is not a verified domain of tenant acme"):
            await admin.add_brand(pool, Brand("acme", "9", "relay", sender_address="a@bank.example"))
        await admin.add_brand(pool, Brand("acme", "9", "relay", sender_address="a@news.shop.example"))
        await admin.add_brand(pool, Brand("acme", "10", "relay"))


async def test_tenants_of_an_upgraded_installation_may_send_as_before(empty_database_url: str) -> None:
    settings = Settings(database_url=SecretStr(empty_database_url))
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        await connection.execute("create table public.schema_migrations (name text primary key)")
        for path in sorted(MIGRATIONS.glob("001*.sql")):
            await connection.execute(path.read_text())
            await connection.execute("insert into public.schema_migrations values (%s)", (path.name,))
        await connection.execute("insert into admin.tenants (tenant) values ('acme'), ('other')")
        await migrate_database(settings)
        # A command of the version before still adds tenants, after the migration.
        await connection.execute("insert into admin.tenants (tenant) values ('third')")
        cursor = await connection.execute("select distinct verified_senders from admin.tenants")
        assert await cursor.fetchall() == [(False,)]


async def test_domain_of_another_tenant_has_another_record(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        for tenant in ("acme", "other"):
            await admin.add_tenant(pool, admin.Tenant(tenant))
        first = await admin.add_sender_domain(pool, "acme", "shop.example")
        assert await admin.add_sender_domain(pool, "acme", "SHOP.example.") == first
        assert (await admin.add_sender_domain(pool, "acme", "shop.example", "7")).token == first.token
        assert (await admin.add_sender_domain(pool, "other", "shop.example")).token != first.token
        await admin.note_verified_domain(pool, "acme", "shop.example")
        verified = {
            (row.tenant, row.brand): row.verified_at is not None for row in await admin.list_sender_domains(pool)
        }
        assert verified == {("acme", "*"): True, ("acme", "7"): True, ("other", "*"): False}
        assert (await admin.add_sender_domain(pool, "acme", "shop.example", "8")).verified_at is not None
        with pytest.raises(Refused, match="doesn't exist"):
            await admin.add_sender_domain(pool, "nobody", "shop.example")
        for missing in (("nobody", "shop.example"), ("acme", "other.example")):
            with pytest.raises(NotFound):
                await admin.remove_sender_domain(pool, *missing)


async def test_domain_is_verified_by_its_record_and_not_by_anothers(settings: Settings) -> None:
    key = DkimKey("shop.example", "mf1", new_key(ed25519=True))
    async with open_database(settings, size=2) as pool:
        for tenant in ("acme", "other"):
            await admin.add_tenant(pool, admin.Tenant(tenant))
        await admin.add_provider(pool, Provider("relay", host="127.0.0.1"), RING)
        await admin.add_brand(pool, Brand("acme", "7", "relay"))
        await set_dkim(pool, "acme", "7", key, RING)
        row = await admin.add_sender_domain(pool, "acme", "shop.example")
        await admin.add_sender_domain(pool, "other", "shop.example")
        zone: dict[str, dict[str, list[str]]] = {
            row.record_name: {"TXT": ['"something else"', f'"{row.record_text}"']},
            "shop.example": {"TXT": ['"v=spf1 -all"']},
            "_dmarc.shop.example": {"TXT": ['"v=DMARC1; p=reject"']},
            "mf1._domainkey.shop.example": {"TXT": [dns_record(key).partition(" IN TXT ")[2]]},
        }
        async with dns_server(zone) as resolver:
            domains = await admin.list_sender_domains(pool)
            mine, others = await check_domains(pool, RING, DomainChecker(resolver), domains)
            assert [each.verdict for each in (mine.verification, *mine.records)] == ["ok"] * 4
            assert (others.verification.verdict, "publish _mailfold.shop.example." in others.verification.todo) == (
                "fail",
                True,
            )
        listed = {each.tenant: each.verified_at is not None for each in await admin.list_sender_domains(pool)}
        assert listed == {"acme": True, "other": False}
        async with dns_server({}) as resolver:
            gone, _ = await check_domains(pool, RING, DomainChecker(resolver), await admin.list_sender_domains(pool))
        assert (gone.verification.verdict, "its record is gone" in gone.verification.text) == ("warn", True)
        assert [each.verified_at is not None for each in await admin.list_sender_domains(pool, "acme")] == [True]


async def test_alias_of_a_name_with_the_record_verifies_nothing(settings: Settings) -> None:
    async with open_database(settings, size=2) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        row = await admin.add_sender_domain(pool, "acme", "shop.example")
        zone = {
            row.record_name: {"CNAME": ["pages.host.example."]},
            "pages.host.example": {"TXT": [f'"{row.record_text}"']},
            "shop.example": {},
            "_dmarc.shop.example": {},
        }
        async with dns_server(zone) as resolver:
            [report] = await check_domains(pool, RING, DomainChecker(resolver), [row])
        assert report.verification.verdict == "fail"
        assert (await admin.list_sender_domains(pool))[0].verified_at is None


async def test_domain_is_removed_of_one_brand_or_of_all(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        for brand in ("*", "7", "8"):
            await admin.add_sender_domain(pool, "acme", "shop.example", brand)
        await admin.remove_sender_domain(pool, "acme", "shop.example", "7")
        assert [row.brand for row in await admin.list_sender_domains(pool)] == ["*", "8"]
        await admin.remove_sender_domain(pool, "acme", "shop.example")
        assert await admin.list_sender_domains(pool) == []


async def test_name_server_that_does_not_answer_verifies_nothing(settings: Settings) -> None:
    async with open_database(settings, size=2) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        await admin.add_sender_domain(pool, "acme", "silent.example")
        async with dns_server({}, timeout_s=0.1) as resolver:
            domains = await admin.list_sender_domains(pool)
            [report] = await check_domains(pool, RING, DomainChecker(resolver), domains)
        assert (report.verification.verdict, "can't be looked up" in report.verification.text) == ("warn", True)
        assert (await admin.list_sender_domains(pool))[0].verified_at is None


@pytest.mark.parametrize(
    ("server", "address", "port"),
    [
        ("192.0.2.53", "192.0.2.53", 53),
        ("127.0.0.1:5300", "127.0.0.1", 5300),
        ("[::1]:54", "::1", 54),
        ("[::1]", "::1", 53),
    ],
)
async def test_name_server_of_the_settings_is_asked(server: str, address: str, port: int) -> None:
    resolver = make_resolver(Settings(dns_server=server).dns_server)
    assert (resolver.nameservers, resolver.port) == ([address], port)


# ------------------------------------------------------------------ by command
@pytest.mark.ci
async def test_commands_add_verify_list_enforce_and_remove_domains(settings: Settings) -> None:
    async def said(resolver: dns.asyncresolver.Resolver, *arguments: str) -> Said:
        server = f"127.0.0.1:{resolver.port}"
        return await mailfold_on(settings, *arguments, MAILFOLD_DNS_SERVER=server)

    zone: dict[str, dict[str, list[str]]] = {}
    async with dns_server(zone) as resolver:
        assert (await said(resolver, "tenants", "add", "first")).err == ""
        assert "domains that are verified for it" in (await said(resolver, "tenants", "add", "acme")).err
        shown = (await said(resolver, "tenants", "list")).out
        assert [("of any domain" in line, "of verified domains" in line) for line in shown.splitlines()[1:]] == [
            (False, True),
            (True, False),
        ]
        _, found = await examined(settings)
        texts = [text for verdict, text in found["setup"] if verdict == "warn"]
        assert "tenant first may send from any domain, other tenants' too" in texts
        assert "tenant acme has no verified domain to send from" in texts
        added = await said(resolver, "domains", "add", "München.example.", "--tenant", "acme")
        name, _, text = added.out.strip().partition(". IN TXT ")
        assert name == "_mailfold.xn--mnchen-3ya.example"
        assert (await said(resolver, "domains", "verify", "--tenant", "acme")).code == 1
        zone[name] = {"TXT": [text]}
        verified = await said(resolver, "domains", "verify", "münchen.example", "--tenant", "acme")
        assert (verified.code, "is verified for tenant acme" in verified.out) == (0, True), verified.err
        assert "no SPF record" in verified.out
        assert "no DMARC record" in (await said(resolver, "domains", "list", "--dns")).out
        enforced = await said(resolver, "domains", "enforce", "--tenant", "first")
        assert "only from its verified domains" in enforced.out
        assert "from every domain" in (await said(resolver, "domains", "enforce", "--tenant", "first", "--off")).out
        assert (await said(resolver, "domains", "remove", "münchen.example", "--tenant", "acme")).code == 0
        again = await said(resolver, "domains", "verify", "--tenant", "acme")
        assert (again.code, "mailfold domains add" in again.err) == (1, True)
