"""Mandrill's forms: a request that Mandrill itself signed, its greeting, and forms that are none."""

import json
import urllib.parse

import pytest

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import WebhookRequest
from pipeline.webhooks.providers import mandrill
from tests.support.golden import FOLDER, Case, context, events_of_case

# Published with mandrill-rails to test verification: recorded from Mandrill, which signed it.
THEIR_KEY = "ntynTMaFpM_octE5R1DKAw"
THEIR_URL = "http://requestb.in/q9a918q9"
THEIR_SIGNATURE = "7rUa4lNJitlb178MgGOcHO6T4Bg="
THEIR_BODY = (FOLDER / "mandrill" / "signed_by_mandrill.form").read_bytes()


def request(body: bytes = THEIR_BODY, url: str = THEIR_URL, signature: str = THEIR_SIGNATURE) -> WebhookRequest:
    return WebhookRequest(headers={"x-mandrill-signature": signature}, body=body, url=url)


def test_request_signed_by_mandrill_is_verified() -> None:
    mandrill.verify(request(), [THEIR_KEY], 0, 0)
    mandrill.verify(request(), ["another", THEIR_KEY], 0, 0)


def test_form_is_split_into_events() -> None:
    events = [mandrill.normalize(event, context("mandrill")) for event in mandrill.split(THEIR_BODY, {})]
    assert [event.kind for event in events] == ["clicked", "clicked"]
    assert events[0].url == "http://mandrill.com"
    assert len({event.event_id for event in events}) == 1  # Mandrill's example has the same click twice


@pytest.mark.parametrize(
    "forged",
    [
        request(url="https://requestb.in/q9a918q9"),
        request(url=THEIR_URL + "/"),
        request(THEIR_BODY + b"&more=1"),
        request(THEIR_BODY.replace(b"click", b"clack")),
        request(signature="8rUa4lNJitlb178MgGOcHO6T4Bg="),
        request(b"\xff"),
        request(b"&".join([b"a=1"] * 1_000)),
    ],
    ids=["https", "a slash", "one parameter more", "another event", "another signature", "no form", "an endless form"],
)
def test_changed_request_is_refused(forged: WebhookRequest) -> None:
    with pytest.raises(InvalidSignatureError):
        mandrill.verify(forged, [THEIR_KEY], 0, 0)


def test_signature_does_not_depend_on_the_forms_encoding() -> None:
    spelled = urllib.parse.urlencode(urllib.parse.parse_qsl(THEIR_BODY.decode()), quote_via=urllib.parse.quote)
    assert spelled.encode() != THEIR_BODY
    mandrill.verify(request(spelled.encode()), [THEIR_KEY], 0, 0)


def test_invalid_utf8_is_verified_but_unrecognised() -> None:
    body = b"mandrill_events=%5B%22%FF%22%5D"
    with pytest.raises(InvalidSignatureError):
        mandrill.verify(request(body), [THEIR_KEY], 0, 0)
    (event,) = mandrill.split(body, {})
    with pytest.raises(Unrecognised):
        mandrill.normalize(event, context("mandrill"))


def test_empty_list_of_events_is_a_probe() -> None:
    assert mandrill.is_probe(WebhookRequest(headers={}, body=b"mandrill_events=%5B%5D"))
    for body in (THEIR_BODY, b"", b"mandrill_events=", b"mandrill_events=%5B1%5D", b"other=%5B%5D", b"[]", b"\xff"):
        assert not mandrill.is_probe(WebhookRequest(headers={}, body=body))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"mandrill_events", b"mandrill_events={}", b"a=1", b"\xff"])
def test_body_that_is_not_a_form_is_unrecognised(body: bytes) -> None:
    with pytest.raises(Unrecognised):
        mandrill.split(body, {})


def test_malformed_event_does_not_affect_others() -> None:
    good = Case("mandrill", "send").payload.decode()
    body = urllib.parse.urlencode({"mandrill_events": f'[{good}, 1, {{"event": "open"}}, {good}]'}).encode()
    kinds = []
    for event in mandrill.split(body, {}):
        try:
            kinds.append(mandrill.normalize(event, context("mandrill")).kind.value)
        except Unrecognised:
            kinds.append("unrecognised")
    assert kinds == ["sent", "unrecognised", "unrecognised", "sent"]


def test_repeated_click_has_the_same_event_id_and_another_has_not() -> None:
    click = json.loads(Case("mandrill", "click").payload)
    other = [click | {"ts": click["ts"] + 1}, click | {"url": "http://mandrill.com/other"}]
    bodies = [urllib.parse.urlencode({"mandrill_events": json.dumps([one])}).encode() for one in (click, click, *other)]
    kinds = [events_of_case(mandrill, Case("mandrill", "click"), body)[0].event_id for body in bodies]
    assert kinds[0] == kinds[1]
    assert len(set(kinds)) == 3
