"""An event proves its email by the tag that we put beside its id, or by our Message-ID; else it only claims it."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content.tokens import echo_tag, is_echo_tag, message_id_header
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY, UNCORRELATED, EventContext
from pipeline.webhooks.normalize import normalize
from pipeline.webhooks.providers import postmark, sendgrid
from pipeline.webhooks.providers.registry import ADAPTERS
from pipeline.webhooks.token_readers import token_readers
from tests.conftest import RING
from tests.support.echoes import echoed
from tests.support.golden import EMAIL_ID, HEADERS, WRAPPED, Case, cases
from topics.codec import encode
from topics.events import DeliveryEvent
from topics.record import EmailId, LogPosition
from topics.registry import PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS
from topics.webhooks import RawWebhook

OTHER_ID = EmailId("0190a1b2-c3d4-7e5f-8a9b-000000000000")
OTHER_RING = SecretRing.of("another-secret-of-at-least-32-characters")
KINDS = (
    *("brevo", "mailersend", "mailgun", "mailjet", "mailtrap", "mandrill"),
    *("postal", "postmark", "resend", "sendgrid", "ses", "sparkpost"),
)
"""The kinds whose events repeat what our messages carry."""
SECRETS = st.lists(st.text("abcdef0123456789", min_size=32, max_size=40), min_size=1, max_size=4, unique=True)
EMAIL_IDS = st.uuids().map(lambda uuid: EmailId(str(uuid)))


def tag_of(email_id: EmailId, ring: SecretRing = RING) -> str:
    return echo_tag(Signer(ring, "echo"), email_id)


def echoing_cases() -> list[Case]:
    """Return the first documented payload of each kind in which the provider repeats the email's id."""
    return [next(case for case in cases(kind) if EMAIL_ID_KEY.encode() in case.payload) for kind in KINDS]


def with_tag(value: Any, tag: str) -> Any:
    """Return a payload as its provider would post it, had the message carried this tag beside the email's id."""
    if isinstance(value, dict):
        tagged = {name: with_tag(item, tag) for name, item in value.items()}
        if EMAIL_ID_KEY in value:
            tagged[EMAIL_ID_KEY] = value[EMAIL_ID_KEY]
            tagged[EMAIL_TAG_KEY] = [tag] if isinstance(value[EMAIL_ID_KEY], list) else tag
        return tagged
    if isinstance(value, list):
        named = [{"name": EMAIL_TAG_KEY, "value": tag}] if {"name": EMAIL_ID_KEY, "value": EMAIL_ID} in value else []
        return [with_tag(item, tag) for item in value] + named
    if isinstance(value, str) and EMAIL_ID_KEY in value:
        return re.sub(f"({EMAIL_ID_KEY}.*{EMAIL_ID})", rf"\1.{tag}", value)
    return value


def event_of(case: Case, tag: str) -> DeliveryEvent:
    payload = json.loads(case.payload)
    payload = with_tag(payload, tag) if tag else payload
    headers = HEADERS.get(case.kind, {})
    readers = token_readers(RING)
    context = EventContext(provider=case.kind, received_at=1_513_299_570_123, headers=headers, token_readers=readers)
    adapter = ADAPTERS[case.kind]
    body = WRAPPED.get(case.kind, bytes)(json.dumps(payload).encode())
    return adapter.normalize(adapter.split(body, headers)[0], context)


@pytest.mark.parametrize("case", echoing_cases(), ids=str)
def test_id_with_our_tag_is_the_events_email(case: Case) -> None:
    event = event_of(case, tag_of(EMAIL_ID))
    assert (event.email_id, event.claimed_email_id) == (EMAIL_ID, "")


@pytest.mark.parametrize(
    "tag",
    ["", "0" * 32, tag_of(OTHER_ID), tag_of(EMAIL_ID, OTHER_RING)],
    ids=["none", "invented", "of-another-email", "of-another-installation"],
)
@pytest.mark.parametrize("case", echoing_cases(), ids=str)
def test_id_without_our_tag_is_only_claimed(case: Case, tag: str) -> None:
    event = event_of(case, tag)
    assert (event.email_id, event.claimed_email_id) == (UNCORRELATED, EMAIL_ID)


def test_our_message_id_proves_an_email_without_a_tag() -> None:
    context = EventContext(provider="main", received_at=1, token_readers=token_readers(RING))
    signed = message_id_header(Signer(RING, "message-id"), OTHER_ID, "mail.example")
    fields = {"event": "open", "timestamp": 1, "sg_event_id": "1", EMAIL_ID_KEY: EMAIL_ID, "smtp-id": signed}
    event = sendgrid.normalize(json.dumps(fields).encode(), context)
    # The claim beside it does not count: only what is signed does.
    assert (event.email_id, event.claimed_email_id) == (OTHER_ID, "")


def test_complaint_about_another_tenants_email_waits_for_an_ack_of_its_provider() -> None:
    """The finding: anybody who knew one webhook's password could complain about any email."""
    body = {"RecordType": "SpamComplaint", "Metadata": {EMAIL_ID_KEY: EMAIL_ID}, "BouncedAt": "2026-01-01T00:00:00Z"}
    webhook = RawWebhook(
        webhook_id="w",
        provider="of-hostile",
        kind="postmark",
        received_at=5,
        headers=(),
        body=json.dumps(body).encode(),
    )
    place = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=0, offset=7)
    record = ConsumedRecord(PROVIDER_WEBHOOKS, place, None, encode(PROVIDER_WEBHOOKS, webhook))
    [entry] = normalize(record, token_readers(RING), 9).entries()
    assert (entry.topic, entry.key) == (UNCORRELATED_EVENTS, EMAIL_ID)
    assert isinstance(entry.record, DeliveryEvent)
    assert (entry.record.email_id, entry.record.claimed_email_id) == (UNCORRELATED, EMAIL_ID)


def test_echoed_tag_does_not_hide_the_native_event() -> None:
    fields = {"RecordType": "Delivery", "Metadata": echoed(EMAIL_ID), "DeliveredAt": "2026-01-01T00:00:00Z"}
    context = EventContext(provider="main", received_at=1, token_readers=token_readers(RING))
    event = postmark.normalize(json.dumps(fields).encode(), context)
    assert msgspec.json.decode(event.native)["Metadata"][EMAIL_ID_KEY] == EMAIL_ID


@given(SECRETS, EMAIL_IDS, st.data())
def test_tag_is_valid_under_any_secret_of_the_ring_in_any_order(
    secrets: list[str], email_id: EmailId, data: st.DataObject
) -> None:
    """However the ring is rotated, a tag counts as long as the secret that made it is in the ring."""
    maker = data.draw(st.sampled_from(secrets))
    tag = tag_of(email_id, SecretRing.of(maker))
    order = data.draw(st.permutations(secrets))
    assert token_readers(SecretRing.of(*order)).is_echo_tag(email_id, tag)
    remaining = [secret for secret in order if secret != maker] or ["z" * 32]
    assert not token_readers(SecretRing.of(*remaining)).is_echo_tag(email_id, tag)


@given(EMAIL_IDS, EMAIL_IDS, st.integers(0, 31), st.sampled_from("0123456789abcdef"))
def test_tag_of_another_email_or_with_another_digit_is_not_valid(
    email_id: EmailId, other: EmailId, place: int, digit: str
) -> None:
    signer, tag = Signer(RING, "echo"), tag_of(email_id)
    assert is_echo_tag(signer, other, tag) == (other == email_id)
    changed = tag[:place] + digit + tag[place + 1 :]
    assert is_echo_tag(signer, email_id, changed) == (changed == tag)


@given(st.text(max_size=200))
def test_any_text_is_a_tag_or_not(text: str) -> None:
    assert not is_echo_tag(Signer(RING, "echo"), EMAIL_ID, text)


def test_tags_have_a_purpose_of_their_own() -> None:
    assert not is_echo_tag(Signer(RING, "message-id"), EMAIL_ID, tag_of(EMAIL_ID))
