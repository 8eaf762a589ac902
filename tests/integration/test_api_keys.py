"""The life of API keys in Postgres and at a gateway: limits, use, rotation, tokens, masked addresses, brands."""

import asyncio
import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from pydantic import SecretStr

from pipeline import admin
from pipeline.admin import ApiKey, KeyLimits, KeyScope
from pipeline.admin.api_keys import key_hash
from pipeline.errors import NotFound, Refused
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.runtime.postgres.schema import migrate_database
from pipeline.settings import Settings
from projections.migrate import MIGRATIONS
from tests.support.changes import Log, acked, event, request
from tests.support.fasttrack import message
from tests.support.gateway import Gateway, gateway
from tests.support.logs import captured_log_lines
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import records, until
from tests.support.suppressed import publish
from topics.events import BounceClass, EventKind
from topics.registry import SEND_REQUESTS

TOKENS = "/auth/v2/oauth2/tokens"
SEND_ONLY = KeyLimits(frozenset({KeyScope.SEND}))
OLD_QUERY = """
select t.tenant, t.batch_max, t.rate_per_second
from admin.api_keys k join admin.tenants t using (tenant) where k.key_hash = %s and k.revoked_at is null
"""
"""How version 0.1.0 looks a key up."""


async def stored(pool: Pool, key: str) -> ApiKey:
    found = await admin.find_key(pool, key)
    assert found is not None
    return found


# ------------------------------------------------------------------ in Postgres
async def test_keys_of_earlier_versions_keep_all_that_they_had(empty_database_url: str) -> None:
    settings = Settings(database_url=SecretStr(empty_database_url))
    old_key = "mf_" + "k" * 43
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        await connection.execute("create table public.schema_migrations (name text primary key)")
        for path in sorted(MIGRATIONS.glob("001*.sql")):
            await connection.execute(path.read_text())
            await connection.execute("insert into public.schema_migrations values (%s)", (path.name,))
        await connection.execute("insert into admin.tenants (tenant) values ('acme')")
        insert = "insert into admin.api_keys (key_hash, tenant, label) values (%s, 'acme', 'old')"
        await connection.execute(insert, (key_hash(old_key),))
        await migrate_database(settings)
        # A process of the version before still makes keys, after the migration.
        await connection.execute(insert, (key_hash("mf_second"),))
    async with open_database(settings, size=1) as pool:
        for key in (old_key, "mf_second"):
            found = await stored(pool, key)
            assert (found.limits, found.name) == (KeyLimits(), key_hash(key).hex()[:12])


@pytest.mark.parametrize(
    "limits",
    [
        SEND_ONLY,
        KeyLimits(networks=(ipaddress.ip_network("10.0.0.0/8"),)),
        KeyLimits(expires_at=datetime(2100, 1, 1, tzinfo=UTC)),
        KeyLimits(frozenset({KeyScope.SEND}), "7"),
        KeyLimits(frozenset()),
    ],
)
async def test_earlier_versions_refuse_keys_whose_limits_they_do_not_know(
    settings: Settings, limits: KeyLimits
) -> None:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        key = await admin.add_key(pool, "acme", limits=limits, made_by="me")
        assert (await stored(pool, key)).limits == limits
        free = await admin.add_key(pool, "acme")
        async with pool.connection() as connection:

            async def old_rows(text: str) -> list[Any]:
                return await (await connection.execute(OLD_QUERY, (key_hash(text),))).fetchall()

            assert await old_rows(key) == []
            assert [row[0] for row in await old_rows(free)] == ["acme"]


async def test_unknown_scope_of_a_newer_version_gives_nothing(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        key = await admin.add_key(pool, "acme", limits=SEND_ONLY)
        async with pool.connection() as connection:
            await connection.execute("update admin.api_keys set scopes = '{send,fly}'")
        assert (await stored(pool, key)).limits == SEND_ONLY


async def test_rotated_key_has_the_limits_of_the_old_one_which_ends_after_the_overlap(settings: Settings) -> None:
    limits = KeyLimits(
        frozenset({KeyScope.SEND, KeyScope.HISTORY_READ}),
        "7",
        (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")),
        datetime.now(UTC) + timedelta(days=30),
    )
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        old = await admin.add_key(pool, "acme", "shop", limits)
        name = (await stored(pool, old)).name
        new = await admin.rotate_key(pool, name, timedelta(days=2), made_by="me")
        found = (await stored(pool, new)).limits
        assert (found.scopes, found.brand, found.networks) == (limits.scopes, limits.brand, limits.networks)
        assert found.expires_at is not None
        assert timedelta(days=29) < found.expires_at - datetime.now(UTC) < timedelta(days=31)
        old_end = (await stored(pool, old)).limits.expires_at
        assert old_end is not None
        assert timedelta(days=1) < old_end - datetime.now(UTC) < timedelta(days=3)
        with pytest.raises(NotFound):
            await admin.rotate_key(pool, name, timedelta(days=2))


async def test_rotation_can_give_scopes_to_an_unscoped_key(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        old = await admin.add_key(pool, "acme")
        new = await admin.rotate_key(pool, admin.key_names(old)[0], timedelta(), scopes=SEND_ONLY.scopes)
        assert (await stored(pool, new)).limits == SEND_ONLY
        assert (await stored(pool, old)).is_expired(datetime.now(UTC).timestamp() + 1)
        of_brand = await admin.add_key(pool, "acme", limits=KeyLimits(SEND_ONLY.scopes, "7"))
        with pytest.raises(Refused, match="templates:write: concerns all brands"):
            await admin.rotate_key(
                pool, admin.key_names(of_brand)[1], timedelta(), scopes=frozenset({KeyScope.TEMPLATES_WRITE})
            )


async def test_unscoped_key_without_limits_stays_one_for_earlier_versions_when_it_is_rotated(
    settings: Settings,
) -> None:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        old = await admin.add_key(pool, "acme")
        new = await admin.rotate_key(pool, admin.key_names(old)[0], timedelta(days=1))
        assert (await stored(pool, new)).name == admin.key_names(new)[0]


async def test_key_given_instead_of_its_name_is_not_repeated_in_the_error(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        key = await admin.add_key(pool, "acme")
        for refused in (admin.revoke_key(pool, key), admin.rotate_key(pool, key, timedelta())):
            with pytest.raises(NotFound) as caught:
                await refused
            assert key[:12] not in str(caught.value)


# ------------------------------------------------------------------ at a gateway
async def test_key_expires_and_its_tokens_end_with_it(settings: Settings) -> None:
    async with gateway(settings) as served:
        end = datetime.now(UTC) + timedelta(seconds=600)
        key = await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(expires_at=end))
        tokens = (await served.http.post(TOKENS, json={"grant_type": "password", "password": key})).json()
        assert 0 < tokens["expires_in"] <= 600

        async def statuses() -> list[int]:
            posts = [{"X-Api-Key": key}, {"Authorization": f"Bearer {key}"}]
            batches = [await served.http.post("/channels/email/batch", json=[], headers=each) for each in posts]
            bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
            mails = await served.http.get("/mail/v1/", headers=bearer)
            refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
            renewed = await served.http.post(TOKENS, json=refresh)
            return [answer.status_code for answer in (*batches, mails, renewed)]

        assert await statuses() == [200, 200, 200, 200]
        async with served.rt.pool.connection() as connection:
            await connection.execute(
                "update admin.api_keys set expires_at = now() where scopes is null and expires_at is not null"
            )

        async def is_over() -> bool:
            return await statuses() == [401, 401, 401, 400]

        await until(is_over)


async def test_tokens_carry_the_scopes_of_their_key(settings: Settings) -> None:
    async with gateway(settings) as served:
        limits = KeyLimits(frozenset({KeyScope.SEND, KeyScope.TEMPLATES_READ}))
        key = await admin.add_key(served.rt.pool, "acme", limits=limits)
        tokens = (await served.http.post(TOKENS, json={"grant_type": "password", "password": key})).json()
        assert tokens["scope"] == "send templates:read"
        renewed = await served.http.post(
            TOKENS, json={"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        )
        for token in (tokens["access_token"], renewed.json()["access_token"]):
            bearer = {"Authorization": f"Bearer {token}"}
            refused = await served.http.get("/mail/v1/", headers=bearer)
            assert refused.status_code == 403
            assert refused.json() == {
                "code": 10,
                "name": "NO_PERMISSION_EXCEPTION",
                "message": "X-Api-Key: this API key lacks the scope history:read",
            }
            assert (await served.http.post("/mail/v1/", json={}, headers=bearer)).json()["code"] == 14
        everything = (await served.http.post(TOKENS, json={"grant_type": "password", "password": served.key})).json()
        assert everything["scope"].split() == sorted(KeyScope)


async def test_key_is_refused_outside_its_networks(settings: Settings) -> None:
    async with gateway(settings, trusted_proxies=["127.0.0.1/32"]) as served:
        networks = (ipaddress.ip_network("203.0.113.0/24"),)
        key = await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(networks=networks))

        async def status(address: str) -> int:
            headers = {"X-Api-Key": key, "X-Forwarded-For": address}
            return (await served.http.post("/channels/email/batch", json=[], headers=headers)).status_code

        async def grant(address: str) -> int:
            body = {"grant_type": "password", "password": key}
            return (await served.http.post(TOKENS, json=body, headers={"X-Forwarded-For": address})).status_code

        assert (await status("203.0.113.5"), await status("198.51.100.1")) == (200, 403)
        assert (await grant("203.0.113.5"), await grant("198.51.100.1")) == (200, 400)
        assert await served.metric('mailfold_api_keys_refused_total{why="network"}') == 2


async def test_last_use_is_stored_by_day(settings: Settings) -> None:
    async with gateway(settings) as served:
        key = await admin.add_key(served.rt.pool, "acme", limits=SEND_ONLY)
        assert (await stored(served.rt.pool, key)).last_used_on is None
        headers = {"X-Api-Key": key}
        assert (await served.http.get("/templates", headers=headers)).status_code == 403
        assert (await stored(served.rt.pool, key)).last_used_on is None, "a refused request is no use"
        await served.http.post("/channels/email/batch", json=[], headers=headers)
        assert (await stored(served.rt.pool, key)).last_used_on == datetime.now(UTC).date()


async def test_many_wrong_keys_do_not_keep_a_right_one_out(settings: Settings) -> None:
    async with gateway(settings) as served:
        right = await admin.add_key(served.rt.pool, "acme")

        async def post(key: str) -> int:
            return (await served.http.post("/channels/email/batch", json=[], headers={"X-Api-Key": key})).status_code

        assert await post(right) == 200
        wrong = [asyncio.create_task(post(f"mf_wrong{number}")) for number in range(60)]
        assert await post(right) == 200
        assert not all(task.done() for task in wrong)
        assert set(await asyncio.gather(*wrong)) == {401}


# ------------------------------------------------------------------ addresses
async def _with_history(served: Gateway) -> None:
    now = served.rt.clock()
    for number, (recipient, brand) in enumerate(
        (("anna@example.com", "7"), ("ben@example.com", "8"), ("anna@example.com", "8")), start=1
    ):
        sent = msgspec.structs.replace(
            request(number, now),
            recipient=recipient,
            brand=brand,
            details=msgspec.Raw(b'{"Token": "for %s"}' % recipient.encode()),
        )
        bounce = msgspec.structs.replace(
            event(number, EventKind.BOUNCED, now),
            bounce_class=BounceClass.HARD,
            text=f"550 <{recipient}>: no such user",
        )
        await publish(served, Log().fold(sent).fold(acked(number, now), bounce))

    async def is_listed() -> bool:
        return len(await _emails(served, served.key)) == 3

    await until(is_listed)


async def _emails(served: Gateway, key: str, **params: str) -> list[dict[str, Any]]:
    answer = await served.http.get("/v1/Email/", params=params, headers={"X-Api-Key": key})
    assert answer.status_code == 200, answer.text
    emails: list[dict[str, Any]] = answer.json()["Emails"]
    return emails


async def test_addresses_are_masked_and_no_filter_without_their_scope(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await _with_history(served)
        masked = await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(frozenset({KeyScope.HISTORY_READ})))
        clear = await admin.add_key(
            served.rt.pool, "acme", limits=KeyLimits(frozenset({KeyScope.HISTORY_READ, KeyScope.HISTORY_ADDRESSES}))
        )
        emails = await _emails(served, masked)
        assert {email["Email"] for email in emails} == {"***@example.com"}
        assert {email["MsgDetails"]["To"] for email in emails} == {"***@example.com"}
        assert "anna" not in str(emails)
        assert "ben" not in str(emails)
        assert "anna@example.com" in str(await _emails(served, clear))
        assert len(await _emails(served, clear, Email="anna@example.com")) == 2
        refused = await served.http.get("/v1/Email/?Email=anna@example.com", headers={"X-Api-Key": masked})
        assert refused.status_code == 403
        assert refused.json() == {"Error": "X-Api-Key: this API key lacks the scope history:addresses"}
        rql = await served.http.get("/mail/v1/?eq(recipients.to,anna@example.com)", headers={"X-Api-Key": masked})
        assert (rql.status_code, rql.json()["code"]) == (403, 10)


async def test_export_with_addresses_needs_their_scope(settings: Settings) -> None:
    async with gateway(settings) as served:
        scopes = frozenset({KeyScope.SUPPRESSIONS_READ, KeyScope.EXPORTS})
        headers = {"X-Api-Key": await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(scopes))}
        assert (await served.http.get("/suppressions/export", headers=headers)).status_code == 200
        refused = await served.http.get("/suppressions/export?addresses=true", headers=headers)
        assert refused.status_code == 403
        assert "history:addresses" in refused.json()["error"]


# ------------------------------------------------------------------ brands
async def test_key_of_one_brand_sends_for_that_brand_only(settings: Settings) -> None:
    async with gateway(settings) as served:
        key = await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(SEND_ONLY.scopes, "7"))
        batch = [message("own"), message("other")]
        batch[0]["activity"]["brand_id"], batch[1]["activity"]["brand_id"] = 7, 8
        answer = (await served.post(batch, X_Api_Key=key)).json()
        assert [each["id"] for each in answer["successful"]] == ["own"]
        assert answer["failed"] == [{"id": "other", "error": "[1].activity.brand_id: this API key is for brand 7 only"}]
        headers = {"X-Api-Key": key}
        v1 = {"To": "a@example.com", "Type": "group", "BrandId": "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02", "GroupId": "g"}
        [result] = (await served.http.post("/v1/Email/", json={"Messages": [v1]}, headers=headers)).json()["Results"]
        assert (result["Status"], result["Error"]) == (403, "Messages[0].BrandId: this API key is for brand 7 only")
        for path in ("/v3/messaging/emails", "/mail/v1/"):
            assert (await served.http.post(path, json={}, headers=headers)).status_code == 403
    assert [record.brand for *_, record in await records(settings, SEND_REQUESTS)] == ["7"]


async def test_key_of_one_brand_reads_and_suppresses_for_that_brand_only(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await _with_history(served)
        scopes = {
            *(KeyScope.HISTORY_READ, KeyScope.HISTORY_ADDRESSES, KeyScope.EXPORTS),
            *(KeyScope.SUPPRESSIONS_READ, KeyScope.SUPPRESSIONS_WRITE),
        }
        key = await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(frozenset(scopes), "7"))
        headers = {"X-Api-Key": key}
        [email] = await _emails(served, key)
        assert await _emails(served, key, BrandId=email["BrandId"]) == [email]
        assert await _emails(served, key, Email="anna@example.com") == [email]
        assert await _emails(served, key, Email="ben@example.com") == []
        for path in ("/v1/Email/?BrandId=8", "/suppressions?brand=8", "/suppressions/export?brand=8", "/mail/v1/"):
            assert (await served.http.get(path, headers=headers)).status_code == 403, path
        listed = (await served.http.get("/suppressions", headers=headers)).json()["suppressions"]
        assert {each["brand"] for each in listed} == {"7"}
        shown = (await served.http.get("/suppressions/ben@example.com", headers=headers)).json()
        assert (shown["suppressed"], shown["evidence"]) == ([], [])
        for brand, status in (("7", 201), ("8", 403), ("*", 403)):
            body = {"address": "cy@example.com", "brand": brand}
            answer = await served.http.post("/suppressions", json=body, headers=headers)
            assert answer.status_code == status, answer.text
            lifted = await served.http.delete(f"/suppressions/cy@example.com?brand={brand}", headers=headers)
            assert lifted.status_code == (200 if status == 201 else status)
        lines = "address,brand\r\ndi@example.com,7\r\nel@example.com,8\r\nfi@example.com,\r\n"
        imported = await served.http.post("/suppressions/import", content=lines, headers=headers)
        assert (imported.json()["listed"], imported.json()["refused"]) == (2, 1)
        assert "brand 7 only" in imported.json()["lines"][0]["error"]


async def test_no_part_of_a_key_is_logged(settings: Settings) -> None:
    async with gateway(settings) as served:
        limits = KeyLimits(SEND_ONLY.scopes, networks=(ipaddress.ip_network("203.0.113.0/24"),))
        far = await admin.add_key(served.rt.pool, "acme", limits=limits)
        scoped = await admin.add_key(served.rt.pool, "acme", limits=SEND_ONLY)
        with captured_log_lines() as lines:
            for key in (far, scoped, served.key, far[:-1], "mf_wrong-key-of-somebody"):
                await served.http.get("/templates", headers={"X-Api-Key": key})
                await served.http.post(TOKENS, json={"grant_type": "password", "password": key})
                assert key[4:14] not in str(lines())
