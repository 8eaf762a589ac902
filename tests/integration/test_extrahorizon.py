"""Test Extra Horizon's mail service from end to end: mails are accepted, sent, found, opened and counted."""

import base64
import json
import re
from typing import Any

import pytest

from pipeline import admin
from pipeline.gateway.oauth_tokens import issue_token
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records, until
from tests.support.smtp_receiver import Received
from tests.support.whole import Whole, whole
from topics.contents import ContentChunk
from topics.ids import owner_uuid
from topics.registry import DELIVERY_EVENTS, MESSAGE_CONTENTS, SEND_REQUESTS

PLAIN = {
    "recipients": {"to": ["anna@example.com"]},
    "from": "News <news@example.com>",
    "subject": "Hello, Änna",
    "body": "A plain text, <b>not HTML</b>.",
}
TEMPLATE = {
    "syntax": "extrahorizon",
    "texts": {
        "en": {
            "subject": "Welcome, $content.first_name",
            "html": '<p>Dear $content.first_name.</p><img src="PUBLIC/mail/v1/$content.tracking_hash/open">',
        }
    },
    "schema": {"type": "object", "properties": {"first_name": {"type": "string"}, "tracking_hash": {"type": "string"}}},
}


async def find(whole: Whole, rql: str) -> Any:
    answer = await whole.http.get(f"/mail/v1/{rql}", headers=whole.bearer)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def send(served: Gateway, mail: Any, status: int = 200, **headers: str) -> Any:
    headers = {"Authorization": f"Bearer {served.key}", **{name.replace("_", "-"): to for name, to in headers.items()}}
    answer = await served.http.post("/mail/v1/", json=mail, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


MAIL_WITH_ALL_FIELDS = PLAIN | {
    "recipients": {
        "to": ["Anna <anna@example.com>", "ben@example.com"],
        "cc": ["cy@example.com"],
        "bcc": ["di@example.com"],
    },
    "reply_to": ["support@example.com"],
    "attachments": [
        {"filename": "a.txt", "content": base64.b64encode(b"one").decode(), "type": "text/plain"},
        {"name": "ü.bin", "content": base64.b64encode(b"two").decode()},
    ],
}
ADDRESSES = ("anna@example.com", "ben@example.com", "cy@example.com", "di@example.com")


async def test_mail_is_sent_to_each_recipient_and_listed_everywhere(settings: Settings) -> None:
    async with whole(settings) as world:
        sent = await send(world.served, MAIL_WITH_ALL_FIELDS)
        await until(lambda: all(world.got(address) for address in ADDRESSES))
        for address in ADDRESSES:
            _assert_all_fields(*world.got(address))
        assert len({world.got(address)[0].message_id for address in ADDRESSES}) == 4
        await _assert_found(world, sent)

        async def is_listed() -> bool:
            listed = (await world.http.get("/v1/Email/", headers=world.bearer)).json()["Emails"]
            return len(listed) == 4

        await until(is_listed)
        listed = (await world.http.get("/v1/Email/?Email=di@example.com", headers=world.bearer)).json()["Emails"]
        assert [(email["Email"], email["State"]) for email in listed] == [("di@example.com", "sent")]
        async with world.served.rt.pool.connection() as connection:
            emit_jobs = await (
                await connection.execute("select count(*) from jobs.jobs where queue = 'emit'")
            ).fetchone()
        assert emit_jobs == (0,)
    contents: list[ContentChunk] = [record for *_, record in await records(settings, MESSAGE_CONTENTS)]
    assert len({chunk.content_id for chunk in contents}) == 1


def _assert_all_fields(received: Received) -> None:
    message = received.message
    assert b"di@example.com" not in received.raw
    headers = {name: message[name] for name in ("To", "Cc", "Bcc", "Reply-To", "Subject", "From")}
    assert headers == {
        "To": "Anna <anna@example.com>, ben@example.com",
        "Cc": "cy@example.com",
        "Bcc": None,
        "Reply-To": "support@example.com",
        "Subject": "Hello, Änna",
        "From": "News <news@example.com>",
    }
    body = message.get_body()
    assert body is not None
    assert body.get_content().strip() == "A plain text, <b>not HTML</b>."
    files = [(part.get_filename(), part.get_content_type(), part.get_content()) for part in message.iter_attachments()]
    assert files == [("a.txt", "text/plain", "one"), ("ü.bin", "application/octet-stream", b"two")]


async def _assert_found(world: Whole, sent: Any) -> None:
    async def has_left() -> bool:
        page = await find(world, f"?eq(id,{sent['id']})")
        return bool(page["data"]) and "aws_message_id" in page["data"][0]

    await until(has_left)
    mail = (await find(world, f"?eq(id,{sent['id']})"))["data"][0]
    assert mail == {
        "id": sent["id"],
        "creator_id": owner_uuid("acme"),
        "aws_message_id": "abc123",
        "views": 0,
        "from": "News <news@example.com>",
        "reply_to": ["support@example.com"],
        "recipients": MAIL_WITH_ALL_FIELDS["recipients"],
        "subject": "Hello, Änna",
        "body": "A plain text, <b>not HTML</b>.",
        "creation_timestamp": sent["creation_timestamp"],
        "update_timestamp": mail["update_timestamp"],
    }
    assert mail == sent | {"aws_message_id": "abc123", "update_timestamp": mail["update_timestamp"]}
    assert mail["update_timestamp"] > mail["creation_timestamp"]

    async def all_left() -> bool:
        return bool((await find(world, "queued"))["page"]["total"] == 0)

    await until(all_left)


async def push_welcome(world: Whole) -> str:
    """Push the template and return its id, once it can be used."""
    texts = json.loads(json.dumps(TEMPLATE["texts"]).replace("PUBLIC", str(world.http.base_url)))
    pushed = await world.http.put("/templates/welcome", json=TEMPLATE | {"texts": texts}, headers=world.bearer)
    assert pushed.status_code in (200, 202), pushed.text

    async def is_there() -> bool:
        return (await world.http.get("/templates/welcome", headers=world.bearer)).status_code == 200

    await until(is_there)
    return str(pushed.json()["id"])


async def test_every_open_of_a_template_mail_is_a_view(settings: Settings) -> None:
    mail = {
        "template_id": "welcome",
        "content": {"first_name": "Anna & Co", "camelCase": [1, {"two": None}]},
        "language": "en-GB",
        "recipients": {"to": ["anna@example.com", "ben@example.com"]},
    }
    async with whole(settings) as world:
        template = await push_welcome(world)
        sent = await send(world.served, mail)
        assert (sent["subject"], sent["template_id"]) == ("Welcome, Anna & Co", template)
        assert sent["content"] == mail["content"]
        assert "body" not in sent
        await until(lambda: world.got("anna@example.com") and world.got("ben@example.com"))
        await _open(world, [_image(world, address) for address in ("anna@example.com", "ben@example.com")])

        async def are_counted() -> bool:
            mails = (await find(world, f"?eq(id,{sent['id']})"))["data"]
            return bool(mails and mails[0]["views"] == 45)

        await until(are_counted)
        assert (await find(world, "?ge(views,45)"))["page"]["total"] == 1
        assert (await find(world, "?eq(content.first_name,Anna%2520%2526%2520Co)"))["page"]["total"] == 1
    # An event that was confirmed late may be on the log twice, also from the spool; it still is one view.
    events = {event.event_id for *_, event in await records(settings, DELIVERY_EVENTS)}
    assert len([name for name in events if name.startswith("extrahorizon:")]) == 45


async def _open(world: Whole, images: list[str]) -> None:
    """Open the images 45 times: 20 times like mail clients, 25 times like an application that reports its opens.

    HEAD requests and a forged hash follow, which must not count.
    """
    assert images[0] != images[1]
    for index in range(20):
        picture = await world.http.get(images[index % 2], headers={"Accept": "image/avif,image/webp,*/*;q=0.8"})
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/gif")
    for _ in range(25):
        counted = await world.http.get(images[0], headers={"Accept": "application/json, text/plain, */*"})
        assert (counted.status_code, counted.json()) == (200, {"affected_records": 1})
    heads = [await world.http.head(image) for image in images]
    assert [(head.status_code, head.headers["content-type"]) for head in heads] == [(200, "image/gif")] * len(images)
    forged = await world.http.get("/mail/v1/AAAA/open", headers={"Accept": "application/json"})
    assert (forged.status_code, forged.json()["name"]) == (404, "RESOURCE_UNKNOWN_EXCEPTION")
    assert (await world.http.get("/mail/v1/AAAA/open", headers={"Accept": "image/*"})).status_code == 200


def _image(world: Whole, address: str) -> str:
    markup = world.got(address)[0].message.get_body(("html",)).get_content()  # type: ignore[union-attr,unused-ignore]
    match = re.search(r'src="([^"]+/mail/v1/[^"]+/open)"', markup)
    assert match, markup
    assert "Dear Anna &amp; Co." in markup
    return match[1]


async def test_mail_that_no_server_accepts_yet_is_queued(settings: Settings) -> None:
    async with whole(settings) as world:
        world.inbox.rcpt["later@example.com"] = ["451 4.3.0 later"]
        sent = await send(world.served, PLAIN | {"recipients": {"to": ["later@example.com"]}})

        queued: dict[str, Any] = {}

        async def is_queued() -> bool:
            queued.update(await find(world, "queued?eq(status,queued)"))  # during each attempt it is `sending`
            return bool(queued["page"]["total"] == 1)

        await until(is_queued)
        assert [mail["id"] for mail in (await find(world, "queued"))["data"]] == [sent["id"]]
        assert queued["data"][0] == {
            "id": sent["id"],
            "status": "queued",
            "from": "News <news@example.com>",
            "to": ["later@example.com"],
            "subject": PLAIN["subject"],
            "text": PLAIN["body"],
            "creation_timestamp": sent["creation_timestamp"],
            "update_timestamp": queued["data"][0]["update_timestamp"],
        }
        assert (await find(world, "queued?eq(status,failed)"))["data"] == []


async def test_same_idempotency_key_returns_the_same_mail_and_refuses_another_list(settings: Settings) -> None:
    async with gateway(settings) as served:
        first = await send(served, PLAIN, Idempotency_Key="once")
        again = await send(served, PLAIN, Idempotency_Key="once")
        assert first["id"] == again["id"]
        other = PLAIN | {"recipients": {"to": ["anna@example.com", "ben@example.com"]}}
        refused = await send(served, other, status=409, Idempotency_Key="once")
        assert (refused["code"], refused["name"]) == (17, "RESOURCE_ALREADY_EXISTS_EXCEPTION")
        assert (await send(served, PLAIN))["id"] != first["id"]
    assert len({request.email_id for *_, request in await records(settings, SEND_REQUESTS)}) == 2


async def test_unavailable_log_is_a_503_and_the_repeat_reaches_each_recipient_once(settings: Settings) -> None:
    mail = PLAIN | {"recipients": {"to": [f"r{index}@example.com" for index in range(8)]}}
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.5) as served,
    ):
        headers = {"X-Api-Key": served.key, "Idempotency-Key": "once"}
        assert (await served.http.post("/mail/v1/", json=PLAIN, headers={"X-Api-Key": served.key})).status_code == 200
        proxy.away()
        answer = await served.http.post("/mail/v1/", json=mail, headers=headers)
        assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, 4, "2")
        proxy.back()

        async def is_taken() -> bool:
            return (await served.http.post("/mail/v1/", json=mail, headers=headers)).status_code == 200

        await until(is_taken)
    requests = [record for *_, record in await records(settings, SEND_REQUESTS) if record.identity == "once"]
    assert {record.recipient for record in requests} == set(mail["recipients"]["to"])  # type: ignore[index,unused-ignore]
    assert len({record.email_id for record in requests}) == 8


@pytest.mark.parametrize(
    ("mail", "code", "words"),
    [
        (b"", 13, "empty"),
        (b"{", 22, "not JSON"),
        (b'{"recipients": {"to": 1}}', 15, "recipients.to: expected array, got int"),
        (b'{"subject": "x", "body": "y"}', 14, "recipients: missing"),
        (PLAIN | {"recipients": {"to": []}}, 15, "1 to 50"),
        (PLAIN | {"recipients": {"to": [f"a{n}@example.com" for n in range(51)]}}, 15, "51 in all"),
        (PLAIN | {"recipients": {"to": ["nobody"]}}, 15, "recipients.to[0]: not an email address"),
        (PLAIN | {"subject": "a\r\nBcc: x@example.com"}, 15, "subject: a line break"),
        (PLAIN | {"subject": "=?utf-8?q?a=0d=0aBcc:_x?="}, 15, "subject: a line break"),
        (PLAIN | {"from": "a\nb <a@example.com>"}, 15, "from: a line break"),
        (PLAIN | {"attachments": [{"name": "a\0", "content": ""}]}, 15, "attachments[0].filename"),
        (PLAIN | {"attachments": [{"name": "a", "content": "%"}]}, 15, "attachments[0].content: not base64"),
        (PLAIN | {"attachments": [{"content": ""}]}, 14, "attachments[0].filename: missing"),
        (PLAIN | {"attachments": [{"name": "a", "content": "QUFB" * 2_700_000}]}, 26, "10 MB"),
        (PLAIN | {"body": "x" * 300_000}, 26, "are kept"),
        (PLAIN | {"template_id": "x"}, 26, "the template's"),
        ({"recipients": {"to": ["a@example.com"]}}, 14, "subject: missing"),
        ({"recipients": {"to": ["a@example.com"]}, "template_id": "none"}, 16, "no such template"),
    ],
)
async def test_invalid_mail_is_refused_in_extra_horizons_shape(
    settings: Settings, mail: Any, code: int, words: str
) -> None:
    async with gateway(settings) as served:
        body = mail if isinstance(mail, bytes) else json.dumps(mail).encode()
        answer = await served.http.post("/mail/v1/", content=body, headers={"X-Api-Key": served.key})
        problem = answer.json()
        assert (answer.status_code, problem["code"], words in problem["message"]) == (
            404 if code == 16 else 400,
            code,
            True,
        ), problem
        assert set(problem) == {"code", "name", "message"}
    assert await records(settings, SEND_REQUESTS) == []


async def test_only_valid_keys_and_tokens_are_authenticated(settings: Settings) -> None:
    async with gateway(settings) as served:

        async def ask(**headers: str) -> tuple[int, int]:
            answer = await served.http.get("/mail/v1/", headers=headers)
            return answer.status_code, answer.json().get("code", 0)

        async def grant(**parameters: str) -> Any:
            return (await served.http.post("/auth/v2/oauth2/tokens", json={"client_id": "x"} | parameters)).json()

        assert await ask() == (401, 104)
        assert await ask(Authorization="Bearer wrong") == (401, 117)
        assert await ask(Authorization="Bearer mft_wrong") == (401, 117)
        wrong = await grant(grant_type="password", username="u", password="wrong")
        assert (wrong["error"], wrong["exh_error"]["code"]) == ("invalid_grant", 106)
        assert (await grant(grant_type="mfa", token="x"))["error"] == "unsupported_grant_type"
        tokens = await grant(grant_type="password", username="u", password=served.key)
        assert served.key not in json.dumps(tokens)
        assert await ask(Authorization=f"Bearer {tokens['access_token']}") == (200, 0)
        assert await ask(Authorization=f"Bearer {tokens['refresh_token']}") == (401, 117)
        assert (await grant(grant_type="refresh_token", refresh_token=tokens["access_token"]))[
            "error"
        ] == "invalid_grant"
        fresh = await grant(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert await ask(Authorization=f"Bearer {fresh['access_token']}") == (200, 0)
        signer = Signer(secret_ring(settings), "access")
        expired = issue_token(signer, "access", admin.key_hash(served.key), served.rt.clock() - 3_601_000)
        assert await ask(Authorization=f"Bearer {expired}") == (401, 118)
        form = await served.http.post(
            "/auth/v2/oauth2/tokens", data={"grant_type": "password", "username": "u", "password": served.key}
        )
        assert form.status_code == 200


async def test_revoked_key_invalidates_its_tokens(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(settings) as served:
        parameters = {"grant_type": "password", "password": served.key}
        tokens = (await served.http.post("/auth/v2/oauth2/tokens", json=parameters)).json()
        await admin.revoke_key(served.rt.pool, admin.key_hash(served.key)[:6].hex())

        async def is_refused() -> bool:
            headers = {"Authorization": f"Bearer {tokens['access_token']}"}
            return bool((await served.http.get("/mail/v1/", headers=headers)).json().get("code") == 117)

        await until(is_refused)


async def test_tenant_finds_only_its_own_mails(settings: Settings) -> None:
    async with whole(settings) as world:
        await admin.add_tenant(world.served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(world.served.rt.pool, "other")
        await send(world.served, PLAIN)

        async def is_there() -> bool:
            return bool((await find(world, ""))["page"]["total"] == 1)

        await until(is_there)
        for path in ("", "?eq(subject,Hello%252C%2520%25C3%2584nna)", "queued"):
            answer = await world.http.get(f"/mail/v1/{path}", headers={"X-Api-Key": key})
            assert answer.json()["data"] == []
