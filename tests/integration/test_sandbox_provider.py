"""The running sandbox between a real SMTP client and a gateway that verifies its webhooks."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import aiosmtplib
import pytest

from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.sandbox.server import open_sandbox
from pipeline.errors import InvalidSettings, InvalidSignatureError
from pipeline.runtime.bootstrap import fresh_id, wall_clock
from pipeline.settings import Settings
from pipeline.webhooks.base import WebhookRequest
from pipeline.webhooks.providers import sendgrid
from tests.support.sandboxed import EMAIL_ID, world


async def test_accepted_mail_is_reported_as_processed_and_delivered(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        before = int(time.time())
        text = await w.send("anna@example.test")
        await w.until(lambda: len(w.gateway.events) == 2)
        processed, delivered = w.gateway.events
    assert (processed["event"], delivered["event"]) == ("processed", "delivered")
    assert delivered["email"] == "anna@example.test"
    assert delivered["mailfold_email_id"] == EMAIL_ID
    assert delivered["smtp-id"] == "<abc.def@mailfold.test>"
    assert before <= delivered["timestamp"] <= time.time()
    assert delivered["response"].startswith("250 ")
    assert delivered["sg_message_id"].startswith(text.rpartition(" ")[2])
    assert processed["sg_event_id"] != delivered["sg_event_id"]


def _webhook_request(headers: Mapping[str, str], body: bytes) -> WebhookRequest:
    return WebhookRequest(headers={name.lower(): value for name, value in headers.items()}, body=body)


async def test_signature_is_valid_and_does_not_fit_a_changed_body(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.send("anna@example.test")
        await w.until(lambda: bool(w.gateway.authentic))
        request = w.gateway.authentic[0]
        sendgrid.verify(_webhook_request(request.headers, request.body), [public_key(tmp_path)], wall_clock(), 60)
        with pytest.raises(InvalidSignatureError):
            sendgrid.verify(
                _webhook_request(request.headers, request.body + b" "), [public_key(tmp_path)], wall_clock(), 60
            )
        assert len(sendgrid.split(request.body, {})) == len(request.events)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("bounce@example.test", 550),
        ("anna+bounce-soft@example.test", 552),
        ("anna+deferred-forever@example.test", 451),
    ],
)
async def test_refused_recipient_is_refused_on_rcpt_without_any_event(tmp_path: Path, address: str, code: int) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
            await w.send(address)
        assert refused.value.recipients[0].code == code
        assert w.sandbox.provider.mailbox.received == 0
        assert w.sandbox.provider.webhook_sender.pending == 0


async def test_content_is_refused_after_data(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(aiosmtplib.SMTPDataError) as refused:
            await w.send("anna+bounce-data@example.test")
        assert refused.value.code == 554


async def test_deferred_recipient_is_accepted_after_its_number_of_attempts(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for _ in range(2):
            with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
                await w.send("anna+deferred-2@example.test")
            assert refused.value.recipients[0].code == 450
        await w.send("anna+deferred-2@example.test")
        await w.until(lambda: "delivered" in w.event_names())


@pytest.mark.parametrize("pattern", ["drop-connection-1", "drop-after-data-1"])
async def test_dropped_connection_leaves_the_sender_without_an_answer(tmp_path: Path, pattern: str) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await w.send(f"anna+{pattern}@example.test")
        assert w.sandbox.provider.mailbox.received == (1 if pattern == "drop-after-data-1" else 0)
        await w.send(f"anna+{pattern}@example.test")
        await w.until(lambda: "delivered" in w.event_names())


async def test_slow_recipient_delays_its_own_sender_only(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        slow = asyncio.create_task(w.send("anna+slow-1@example.test"))
        await w.send("ben@example.test")
        assert not slow.done()
        await slow


async def test_recipient_loads_the_pixel_and_follows_the_first_link_as_a_browser(tmp_path: Path) -> None:
    html = '<a href="ORIGIN/c/one">1</a><a href="ORIGIN/c/two">2</a><img src="ORIGIN/o/pixel.gif" width="1">'
    async with world(tmp_path) as w:
        await w.send("anna+open+click@example.test", html=html)
        await w.until(lambda: len(w.gateway.visits) == 2)
        (opened, browser), (clicked, _) = w.gateway.visits
        await w.until(lambda: "click: 302" in next(w.sandbox.provider.mailbox.newest()).event_history)
        await w.send("robot+open-machine@example.test", html=html)
        await w.until(lambda: len(w.gateway.visits) == 3)
    assert (opened, clicked) == ("/o/pixel.gif", "/c/one")
    assert "Chrome" in browser
    assert "bot" in w.gateway.visits[2][1]


async def test_links_and_images_of_other_hosts_are_not_requested(tmp_path: Path) -> None:
    html = '<a href="http://127.0.0.1:1/x">x</a><a href="mailto:a@b.test">m</a><img src="http://127.0.0.1:1/y.gif">'
    async with world(tmp_path) as w:
        await w.send("anna+open+click@example.test", html=html)
        await w.until(lambda: w.sandbox.provider.webhook_sender.pending == 0)
        history = next(w.sandbox.provider.mailbox.newest()).event_history
    assert [line for line in history if "nothing of ours" in line] == [
        "open: nothing of ours in the HTML part to fetch",
        "click: nothing of ours in the HTML part to fetch",
    ]
    assert w.gateway.visits == []


async def test_later_patterns_post_their_events(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for name in ("bounce-later", "blocked-later", "dropped-later", "deferred-later", "complaint", "unsubscribe"):
            await w.send(f"{name}@example.test")
        await w.until(lambda: w.sandbox.provider.webhook_sender.pending == 0)
        counted = Counter(w.event_names())
        types = {event.get("type") for event in w.gateway.events if event["event"] == "bounce"}
    assert counted == {
        "processed": 6,
        "delivered": 3,
        "bounce": 2,
        "dropped": 1,
        "deferred": 1,
        "spamreport": 1,
        "unsubscribe": 1,
    }
    assert types == {"bounce", "blocked"}


async def test_duplicated_events_share_their_event_id(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.send("anna+duplicated@example.test")
        await w.until(lambda: len(w.gateway.events) == 6)
        counted = Counter((event["event"], event["sg_event_id"]) for event in w.gateway.events)
    assert sorted(counted.values()) == [3, 3]


async def test_forged_event_has_an_invalid_signature_and_is_posted_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.send("anna+forged@example.test")
        await w.until(lambda: w.sandbox.provider.webhook_sender.pending == 0)
        assert [event["event"] for request in w.gateway.forged for event in request.events] == ["bounce"]
        assert sorted(w.event_names()) == ["delivered", "processed"]
        assert w.sandbox.provider.webhook_sender.counts.forged_refused == 1


async def test_refused_webhook_is_posted_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.gateway.refuse = 2
        await w.send("anna@example.test")
        await w.until(lambda: w.sandbox.provider.webhook_sender.pending == 0)
        assert sorted(w.event_names()) == ["delivered", "processed"]
        assert w.sandbox.provider.webhook_sender.counts.attempts >= 3


async def test_webhook_is_abandoned_and_counted_after_the_last_attempt(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.gateway.refuse = 1_000
        await w.send("anna@example.test")
        await w.until(lambda: w.sandbox.provider.webhook_sender.pending == 0)
        assert w.sandbox.provider.webhook_sender.counts.given_up == 2


async def test_mail_is_deferred_while_too_many_events_are_pending(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.sandbox.provider.webhook_sender.pending += 1_000_000
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
            await w.send("anna@example.test")
        assert refused.value.recipients[0].code == 451


async def test_international_addresses_are_accepted(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.send("jörg@exämple.test", mail_options=["SMTPUTF8", "BODY=8BITMIME"])
        await w.until(lambda: len(w.gateway.events) == 2)
        assert w.gateway.events[0]["email"] == "jörg@exämple.test"


async def test_only_the_newest_messages_are_kept(tmp_path: Path) -> None:
    async with world(tmp_path, sandbox_keep=2) as w, aiohttp.ClientSession(w.api) as http:
        for name in ("one", "two", "three"):
            await w.send(f"{name}@example.test")
        shown = await (await http.get("/messages")).json()
        assert [message["envelope"]["to"] for message in shown] == [["three@example.test"], ["two@example.test"]]
        assert (await http.get("/messages/1")).status == 404


async def test_api_returns_a_message_parsed_and_raw(tmp_path: Path) -> None:
    async with world(tmp_path) as w, aiohttp.ClientSession(w.api) as http:
        await w.send("anna@example.test", html="<p>hi</p>")
        message = await (await http.get("/messages/1")).json()
        raw = await (await http.get("/messages/1/raw")).read()
    assert message["envelope"] == {"from": "b-verp@mailfold.test", "to": ["anna@example.test"], "tls": True}
    assert ["Subject", "Grüße & <b>"] in message["headers"]
    assert [part["content_type"] for part in message["parts"]] == ["text/plain", "text/html"]
    assert message["size"] == len(raw)
    assert b"\r\n\r\n" in raw


async def test_inbox_pages_escape_what_senders_write(tmp_path: Path) -> None:
    async with world(tmp_path) as w, aiohttp.ClientSession(w.api) as http:
        await w.send("anna@example.test", html="<script>alert(1)</script>")
        inbox = await (await http.get("/")).text()
        page = await (await http.get("/inbox/1")).text()
    assert "Grüße &amp; &lt;b&gt;" in inbox
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


async def test_event_can_be_sent_by_hand(tmp_path: Path) -> None:
    async with world(tmp_path) as w, aiohttp.ClientSession(w.api) as http:
        await w.send("anna+silent@example.test")
        body = {"message": 1, "event": "bounce", "fields": {"reason": "452 later", "new": [1]}}
        assert (await http.post("/events", json=body)).status == 202
        await w.until(lambda: bool(w.gateway.events))
        event = w.gateway.events[0]
    assert (event["event"], event["reason"], event["new"]) == ("bounce", "452 later", [1])
    assert event["mailfold_email_id"] == EMAIL_ID


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ([], ""),
        ({"message": 2, "event": "bounce"}, "message"),
        ({"message": "1", "event": "bounce"}, "message"),
        ({"message": 1, "event": "exploded"}, "event"),
        ({"message": 1, "event": ["bounce"]}, "event"),
        ({"message": 1, "event": "bounce", "recipient": "ben@example.test"}, "recipient"),
        ({"message": 1, "event": "bounce", "fields": 1}, "fields"),
    ],
)
async def test_invalid_event_request_is_answered_with_the_field(tmp_path: Path, body: Any, where: str) -> None:
    async with world(tmp_path) as w, aiohttp.ClientSession(w.api) as http:
        await w.send("anna+silent@example.test")
        response = await http.post("/events", json=body)
        assert response.status == 400
        assert (await response.json())["where"] == where


async def test_web_page_of_another_origin_can_neither_read_the_inbox_nor_send_events(tmp_path: Path) -> None:
    async with world(tmp_path) as w, aiohttp.ClientSession(w.api) as http:
        await w.send("anna+silent@example.test")
        assert (await http.get("/messages", headers={"Host": "rebound.test"})).status == 403
        plain = {"Content-Type": "text/plain"}
        assert (await http.post("/events", data='{"message": 1, "event": "bounce"}', headers=plain)).status == 415


async def test_deleting_empties_the_inbox(tmp_path: Path) -> None:
    async with world(tmp_path) as w, aiohttp.ClientSession(w.api) as http:
        await w.send("anna+silent@example.test")
        assert await (await http.delete("/messages")).json() == {"deleted": 1}
        assert await (await http.get("/messages")).json() == []
        assert (await (await http.get("/healthz")).json())["received"] == 1


async def test_taken_port_is_an_error_that_names_its_setting(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        taken = Settings(data_dir=tmp_path, sandbox_smtp_port=w.sandbox.smtp_port, sandbox_http_port=0)
        with pytest.raises(InvalidSettings, match="MAILFOLD_SANDBOX_SMTP_PORT"):
            async with open_sandbox(taken, clock=wall_clock, new_id=fresh_id):
                pass
