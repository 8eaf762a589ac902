"""`mailfold doctor` on real servers: all is well, one server is away, a setting is wrong."""

import json

import psycopg
from pydantic import SecretStr

from pipeline import admin
from pipeline.content.dkim import DkimKey, dns_record, new_key
from pipeline.dispatch.routing.routes import set_dkim
from pipeline.operations.doctor.mail_dns import check_dns
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from tests.support.command import mailfold_on
from tests.support.dns_server import dns_server
from topics.registry import SEND_REQUESTS

UNREACHABLE = "127.0.0.1:1"


async def examined(settings: Settings, *options: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Return the exit code, and by area the verdict and text of each finding."""
    done = await mailfold_on(settings, "doctor", "--json", *options)
    found: dict[str, list[tuple[str, str]]] = {}
    for row in json.loads(done.out)["findings"]:
        found.setdefault(row["area"], []).append((row["verdict"], row["text"]))
    return done.code, found


def verdicts(found: list[tuple[str, str]]) -> set[str]:
    return {verdict for verdict, _ in found}


async def test_sound_installation_fails_nothing_and_a_wrong_clock_or_credential_is_found(settings: Settings) -> None:
    provider = admin.Provider("mine", "smtp.example.com", username="u", password="p")
    async with open_runtime(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await admin.add_provider(rt.pool, provider, secret_ring(settings))
        await admin.add_brand(rt.pool, admin.Brand("acme", "*", "mine"))
    code, found = await examined(settings)
    assert (code, set(found)) == (0, {"host", "dns", "kafka", "rights", "postgres", "log", "setup", "roles"})
    assert "fail" not in {verdict for rows in found.values() for verdict in verdicts(rows)}
    assert ("ok", "no record has a time in the future") in found["kafka"]
    assert ("ok", "1 tenants, 1 brands") in found["setup"]
    assert found["rights"] == [
        ("ok", "this user has the rights of gateway, worker, dispatch, project, emit, commands")
    ], "a cluster without an authorizer allows everything"
    assert (await examined(settings, "--strict"))[0] == 1, "one replica is a warning"

    async with open_runtime(settings) as rt:
        topic = settings.topic(SEND_REQUESTS.name)
        await rt.log._producers.current.send_and_wait(topic, b"x", timestamp_ms=rt.clock() + 600_000)
    code, found = await examined(
        settings.model_copy(update={"secret": SecretStr("another-secret-for-tests-of-at-least-32-characters")})
    )
    assert code == 1
    assert any(verdict == "fail" and "ahead of this machine's clock" in text for verdict, text in found["kafka"])
    assert any(verdict == "fail" and "sealed under another secret" in text for verdict, text in found["setup"])


async def test_kafka_that_is_away_leaves_the_other_checks_their_results(
    settings: Settings, empty_database_url: str
) -> None:
    empty = {"kafka_bootstrap": UNREACHABLE, "database_url": SecretStr(empty_database_url)}
    code, found = await examined(settings.model_copy(update=empty))
    assert code == 1
    assert verdicts(found["kafka"]) == {"fail"}
    assert ("fail", "the database has no tables of Mailfold's") in found["postgres"], "nothing is migrated"
    assert any("answers" in text for verdict, text in found["postgres"] if verdict == "ok")
    assert verdicts(found["setup"]) == {"skip"}


async def test_postgres_that_is_away_or_read_only_is_told(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": SecretStr(f"postgresql://u:secret-word@{UNREACHABLE}/x")})
    code, found = await examined(away)
    assert code == 1
    assert verdicts(found["postgres"]) == {"fail"}
    assert "ok" in verdicts(found["kafka"])
    assert "secret-word" not in str(found)
    async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as connection:
        name = connection.info.dbname
        await connection.execute(f"alter database {name} set default_transaction_read_only = on")
    _, found = await examined(settings)
    assert any(verdict == "fail" and "read-only" in text for verdict, text in found["postgres"])


async def test_senders_and_keys_of_brands_are_looked_up(settings: Settings) -> None:
    key = DkimKey("shop.com", "mf1", new_key(ed25519=True))
    ring = secret_ring(settings)
    async with open_runtime(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await admin.add_provider(rt.pool, admin.Provider("mine", "smtp.example.com"), ring)
        await admin.add_brand(rt.pool, admin.Brand("acme", "*", "mine", sender_address="news@shop.com"))
        await set_dkim(rt.pool, "acme", "*", key, ring)
    zone = {
        "shop.com": {"MX": ["10 mx.shop.com."]},
        "mf1._domainkey.shop.com": {"TXT": [dns_record(key).partition(" IN TXT ")[2]]},
    }
    async with dns_server(zone) as resolver:
        found = [(row.verdict, row.text) async for row in check_dns(settings, resolver=resolver)]
    assert found[1:] == [
        ("ok", "shop.com takes mail"),
        ("warn", "shop.com has no SPF record"),
        ("warn", "shop.com has no DMARC record; large receivers want one of whoever sends much"),
        ("ok", "mf1._domainkey.shop.com has the DKIM key that signs"),
    ]
