"""Brevo and Mailjet, who send a password and no signature: passwords and tokens, bare events and many, odd times."""

import base64
import json

import pytest

from pipeline.errors import AuthenticationFailed, InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import Adapter, WebhookRequest
from pipeline.webhooks.providers import brevo, mailjet
from tests.support.golden import EMAIL_ID, Case, context

BOTH = pytest.mark.parametrize(
    ("kind", "adapter", "case"), [("brevo", brevo, "delivered"), ("mailjet", mailjet, "sent")]
)


def asks(authorization: str) -> WebhookRequest:
    return WebhookRequest(headers={"authorization": authorization}, body=b"{}")


def basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def test_brevo_authenticates_with_a_password_or_a_token() -> None:
    keys = ["hook:s3cret:with:colons", "a-token"]
    for good in (basic("hook:s3cret:with:colons"), "Bearer a-token", "bearer  a-token"):
        brevo.verify(asks(good), keys, 0, 0)
    for bad in ("", "Bearer", "Bearer ", "Bearer b-token", basic("hook:other"), "Basic a-token", "Token a-token"):
        with pytest.raises(InvalidSignatureError):
            brevo.verify(asks(bad), keys, 0, 0)


def test_mailjet_authenticates_with_a_password_only() -> None:
    mailjet.verify(asks(basic("hook:s3cret")), ["other:one", "hook:s3cret"], 0, 0)
    for bad in ("", "Bearer hook:s3cret", basic("hook"), basic("hook:"), basic(":s3cret"), basic("hook:s3cret\n")):
        with pytest.raises(AuthenticationFailed):
            mailjet.verify(asks(bad), ["hook:s3cret"], 0, 0)


@BOTH
def test_single_events_and_arrays_are_split(kind: str, adapter: Adapter, case: str) -> None:
    event = Case(kind, case).payload.strip()
    assert adapter.split(event, {}) == [event]
    assert adapter.split(b"[%s,%s]" % (event, event), {}) == [event, event]
    assert adapter.split(b" [] ", {}) == []
    for body in (b"", b"1", b"null", b"[", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 5_000):
        with pytest.raises(Unrecognised):
            adapter.split(body, {})


@BOTH
def test_malformed_event_is_unrecognised(kind: str, adapter: Adapter, case: str) -> None:
    for event in (b"{}", b"1", b'{"event":null}', b'{"event":"sent"}', b'{"event":"sent","time":"soon"}'):
        with pytest.raises(Unrecognised):
            adapter.normalize(event, context(kind))


@BOTH
def test_event_id_is_stable_and_depends_on_the_time(kind: str, adapter: Adapter, case: str) -> None:
    event = json.loads(Case(kind, case).payload)
    later = event | {"time": 1, "ts_epoch": 1}
    ids = [adapter.normalize(json.dumps(one).encode(), context(kind)).event_id for one in (event, event, later)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("times", "occurred_at"),
    [
        ({"ts_epoch": 1685543827372, "ts_event": 1, "ts": 2}, 1685543827372),
        ({"ts_epoch": 1604933623, "ts_event": 1, "ts": 2}, 1604933623_000),
        ({"ts_epoch": None, "ts_event": 1604933654, "ts": 2}, 1604933654_000),
        ({"ts_epoch": "", "ts_event": None, "ts": "1604933619"}, 1604933619_000),
    ],
)
def test_brevo_times_are_read_in_seconds_and_milliseconds(times: dict[str, object], occurred_at: int) -> None:
    event = json.loads(Case("brevo", "delivered").payload) | times
    assert brevo.normalize(json.dumps(event).encode(), context("brevo")).occurred_at == occurred_at


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({"mailfold_email_id": EMAIL_ID}),
        json.dumps({"order": 1, "mailfold_email_id": EMAIL_ID.upper()}, indent=2),
        json.dumps(json.dumps({"mailfold_email_id": EMAIL_ID})),
        f"order:1|mailfold_email_id:{EMAIL_ID}",
        f"mailfold_email_id={EMAIL_ID}",
    ],
)
def test_email_id_is_found_in_every_repeated_field(payload: str) -> None:
    event = json.loads(Case("mailjet", "sent").payload) | {"Payload": payload}
    assert mailjet.normalize(json.dumps(event).encode(), context("mailjet")).email_id == EMAIL_ID


@pytest.mark.parametrize("payload", [EMAIL_ID, f"order_id={EMAIL_ID}", f"mailfold_email_id={EMAIL_ID}0", "-" * 36, ""])
def test_ids_of_other_systems_are_not_taken_for_email_ids(payload: str) -> None:
    event = json.loads(Case("mailjet", "sent").payload) | {"Payload": payload}
    assert mailjet.normalize(json.dumps(event).encode(), context("mailjet")).email_id == ""
