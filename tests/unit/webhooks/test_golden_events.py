"""Every documented payload of every provider becomes the expected events, and no address leaves with them."""

import json
import urllib.parse

import msgspec
import pytest

from pipeline.webhooks.base import EMAIL_ID_KEY
from pipeline.webhooks.providers.registry import ADAPTERS
from tests.support.golden import EMAIL_ID, FOLDER, Case, addresses, cases, events_of_case
from topics.codec import decode, encode
from topics.events import EventKind
from topics.registry import DELIVERY_EVENTS

KINDS = sorted(kind for kind in ADAPTERS if (FOLDER / kind).is_dir() and kind != "mail")
# The sandbox speaks SendGrid's language; what mail brings in is shown with real mails, in tests of its own.
WITHOUT = {"sandbox", "mail"}
EVERY = pytest.mark.parametrize("case", cases(*KINDS), ids=str)


def test_every_provider_has_golden_payloads() -> None:
    assert set(KINDS) | WITHOUT >= set(ADAPTERS)


@EVERY
def test_a_documented_payload_becomes_the_expected_events(case: Case) -> None:
    events = events_of_case(ADAPTERS[case.kind], case)
    assert [json.loads(msgspec.json.encode(event)) for event in events] == case.expected


@EVERY
def test_events_can_be_encoded_for_the_log(case: Case) -> None:
    for event in events_of_case(ADAPTERS[case.kind], case):
        assert decode(DELIVERY_EVENTS, encode(DELIVERY_EVENTS, event)) == event


@EVERY
def test_repeated_payload_has_the_same_event_ids(case: Case) -> None:
    once = [event.event_id for event in events_of_case(ADAPTERS[case.kind], case)]
    assert once == [event.event_id for event in events_of_case(ADAPTERS[case.kind], case)]
    assert len(set(once)) == len(once)


@EVERY
def test_events_contain_no_address(case: Case) -> None:
    text = b"".join(map(msgspec.json.encode, events_of_case(ADAPTERS[case.kind], case))).decode().lower()
    text = urllib.parse.unquote(text) + text
    for address in addresses(json.loads(case.payload)):
        assert address not in text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if (FOLDER / kind / "newer_than_us.json").exists()])
def test_event_of_an_unknown_type_is_kept_as_unknown(kind: str) -> None:
    (event,) = events_of_case(ADAPTERS[kind], Case(kind, "newer_than_us"))
    assert event.kind is EventKind.UNKNOWN
    assert event.email_id == EMAIL_ID
    assert EMAIL_ID_KEY in bytes(event.native).decode()
