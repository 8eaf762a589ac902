"""Mailtrap's webhooks: a signature that OpenSSL made, and its two formats."""

import json

import pytest

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import WebhookRequest
from pipeline.webhooks.providers import mailtrap
from tests.support.golden import Case, context

# By `openssl dgst -sha256 -hmac`, as Mailtrap's documentation has it in eight languages.
KEY = "0123456789abcdef0123456789abcdef"
BODY = b'{"events":[{"event":"delivery","event_id":"bede7236-2284-43d6-a953-1fdcafd0fdbc"}]}'
SIGNATURE = "d0f9e2e6fd792b083486f80659f7c2ef1777aa212ef3617257b5b03b2521fc26"

# As documented: https://docs.mailtrap.io/email-api-smtp/advanced/webhooks
LINES = b"""\
{"event":"delivery","timestamp":1728669927,"message_id":"abc-123","email":"user1@example.com","event_id":"evt-1","sending_stream":"transactional","sending_domain_name":"example.com"}
{"event":"open","timestamp":1728669930,"message_id":"abc-123","email":"user1@example.com","event_id":"evt-2","sending_stream":"transactional","ip":"192.168.1.1","sending_domain_name":"example.com"}
{"event":"click","timestamp":1728669935,"message_id":"abc-123","email":"user1@example.com","event_id":"evt-3","sending_stream":"transactional","url":"https://example.com","sending_domain_name":"example.com"}
"""


def test_signature_of_the_body_is_verified() -> None:
    mailtrap.verify(WebhookRequest(headers={"mailtrap-signature": SIGNATURE}, body=BODY), [KEY], 0, 0)
    with pytest.raises(InvalidSignatureError):
        mailtrap.verify(WebhookRequest(headers={"mailtrap-signature": SIGNATURE}, body=BODY + b"\n"), [KEY], 0, 0)


def test_both_formats_are_read() -> None:
    kinds = [mailtrap.normalize(event, context("mailtrap")) for event in mailtrap.split(LINES, {})]
    assert [(event.event_id, event.kind) for event in kinds] == [
        ("mailtrap:evt-1", "delivered"),
        ("mailtrap:evt-2", "opened"),
        ("mailtrap:evt-3", "clicked"),
    ]
    as_json = b'{"events": [%s]}' % b",".join(LINES.splitlines())
    assert mailtrap.split(as_json, {}) == LINES.splitlines()
    assert mailtrap.split(LINES.splitlines()[0], {}) == LINES.splitlines()[:1]
    assert mailtrap.split(b'{"events": []}', {}) == []


def test_broken_line_does_not_affect_others() -> None:
    lines = LINES.splitlines()
    kinds = []
    for event in mailtrap.split(b"\r\n".join([lines[0], b"{cut", b"", lines[2]]), {}):
        try:
            kinds.append(mailtrap.normalize(event, context("mailtrap")).kind.value)
        except Unrecognised:
            kinds.append("unrecognised")
    assert kinds == ["delivered", "unrecognised", "clicked"]


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{cut", b"\xff", b"some\nlines", b"{" * 100_000, b"null\n{}"])
def test_a_body_of_neither_format_is_unrecognised(body: bytes) -> None:
    with pytest.raises(Unrecognised):
        mailtrap.split(body, {})


def test_bounce_of_an_unknown_category_is_classified_by_codes() -> None:
    bounce = json.loads(Case("mailtrap", "bounce_badrecipient").payload) | {"bounce_category": "unheard of"}
    judged = {
        "550 5.1.1 No such user": "hard",
        "550 5.2.2 Mailbox full": "soft",
        "550 5.7.1 Blocked for spam": "soft",
        "": "hard",
    }
    for words, found in judged.items():
        event = mailtrap.normalize(json.dumps(bounce | {"response": words}).encode(), context("mailtrap"))
        assert event.bounce_class == found
