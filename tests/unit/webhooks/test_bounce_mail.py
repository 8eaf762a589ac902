"""Bounced mail: reports become events, only signed ones count, and no input breaks the parser."""

import json
import os
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidSignatureError, Unproven
from pipeline.gateway.smtp.envelope import mail_record
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.bounces.parse import ENVELOPE_FROM_HEADER, ENVELOPE_TO_HEADER, TRUNCATED_HEADER
from pipeline.webhooks.normalize import normalize
from pipeline.webhooks.providers import bounce_mail
from pipeline.webhooks.token_readers import token_readers
from tests.conftest import RING
from tests.support.golden import ADDRESS
from tests.support.inbound import EMAIL_ID, bounce, message_id, unsubscribe, verp
from topics.codec import decode, encode
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId, LogPosition
from topics.registry import DELIVERY_EVENTS, PROVIDER_WEBHOOKS

GOLDEN = Path(__file__).parents[2] / "golden" / "mail"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.eml"))
CONTEXT = EventContext(provider="inbound", received_at=1_767_323_045_123, token_readers=token_readers(RING))
EVERY = pytest.mark.parametrize("name", NAMES)
CASES = int(os.environ.get("ADAPTER_CASES", "100"))
FUZZED = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
ENVELOPE = {ENVELOPE_TO_HEADER: verp(), ENVELOPE_FROM_HEADER: "<>"}


def normalized_mail(raw: bytes, envelope: dict[str, str] | None = None) -> tuple[list[DeliveryEvent], list[str]]:
    """The events, and why the others are none."""
    events, unproven = [], []
    for piece in bounce_mail.split(raw, envelope or {}):
        try:
            events.append(bounce_mail.normalize(piece, CONTEXT))
        except Unproven as error:
            unproven.append(str(error))
    return events, unproven


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.eml").read_bytes()


@EVERY
def test_a_mail_as_servers_write_it_becomes_the_expected_events(name: str) -> None:
    events, unproven = normalized_mail(golden(name))
    text = {"events": [json.loads(msgspec.json.encode(event)) for event in events], "unproven": unproven}
    assert text == json.loads((GOLDEN / f"{name}.expected.json").read_text())
    assert all(decode(DELIVERY_EVENTS, encode(DELIVERY_EVENTS, event)) == event for event in events)


@EVERY
def test_line_ends_and_prepended_fields_do_not_change_events(name: str) -> None:
    once = normalized_mail(golden(name))
    with_crlf = golden(name).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert normalized_mail(with_crlf) == once
    if name != "not_even_headers":
        assert normalized_mail(b"Received: from a by b; now\r\nX-Spam: no\r\n" + with_crlf) == once


@EVERY
def test_events_contain_no_address_and_no_text_by_a_person(name: str) -> None:
    raw = golden(name).decode("utf-8", "replace")
    text = msgspec.json.encode(normalized_mail(golden(name))[0]).decode()
    text = (text + urllib.parse.unquote(text)).lower()
    for address in ADDRESS.findall(raw.lower()):
        assert address not in text
    for private in ("vacation.", "watches", "not interested", "montag", "out of the office"):
        assert private not in text


@pytest.mark.parametrize("name", [name for name in NAMES if "forged" not in name])
def test_mail_signed_with_another_secret_is_unproven(name: str) -> None:
    others = EventContext(
        provider="inbound",
        received_at=0,
        token_readers=token_readers(SecretRing.of("another-secret-of-at-least-32-characters")),
    )
    for piece in bounce_mail.split(golden(name), {}):
        with pytest.raises(Unproven):
            bounce_mail.normalize(piece, others)


def test_envelope_recipient_takes_precedence_over_the_header() -> None:
    other = EmailId("0190a1b2-c3d4-7e5f-8a9b-000000000000")
    (event,) = normalized_mail(
        bounce("somebody@example.org"), {ENVELOPE_TO_HEADER: verp(other), ENVELOPE_FROM_HEADER: "<>"}
    )[0]
    assert (event.email_id, event.kind) == (other, EventKind.BOUNCED)
    assert (
        normalized_mail(
            bounce("somebody@example.org"),
            {ENVELOPE_TO_HEADER: "postmaster@mailfold.localhost", ENVELOPE_FROM_HEADER: "<>"},
        )[0]
        == []
    )


def test_each_token_proves_only_its_own_form_of_mail() -> None:
    # A return path in a complaint, a Message-ID in a bounce, an unsubscribe address on either: no proofs.
    report = golden("arf_abuse").decode()
    assert (
        normalized_mail(report.replace(message_id(), "<x@shop.example>").encode(), {ENVELOPE_TO_HEADER: verp()})[0]
        == []
    )
    assert (
        normalized_mail(bounce(unsubscribe()).replace(b"Subject: x", f"Message-ID: {message_id()}".encode()))[0] == []
    )
    forged = unsubscribe().replace(unsubscribe()[-40:-30], "aaaaaaaaaa")
    assert normalized_mail(f"To: {forged}, {verp()}\nSubject: unsubscribe\n\n".encode())[0] == []
    assert (
        normalized_mail(
            b"Subject: unsubscribe\n\n", {ENVELOPE_TO_HEADER: verp(), ENVELOPE_FROM_HEADER: "a@example.net"}
        )[0][0].kind
        is EventKind.UNKNOWN
    )


def test_repeated_message_has_the_same_event_id() -> None:
    ((first,), _), ((again,), _) = (
        normalized_mail(bounce(verp()), ENVELOPE),
        normalized_mail(b"Delivered-To: x@y.example\r\n" + bounce(verp())),
    )
    assert first.event_id == again.event_id
    without_id = bounce(verp()).replace(b"Message-ID: <20260102030405.77@mx.example.net>\r\n", b"")
    assert len({event.event_id for raw in (bounce(verp()), without_id) for event in normalized_mail(raw)[0]}) == 2
    assert (
        normalized_mail(without_id)[0]
        == normalized_mail(b"Return-Path: <>\r\n" + without_id.replace(b"\r\n", b"\n"))[0]
    )
    ids = [event.event_id for event in normalized_mail(golden("rfc3464_several"))[0]]
    assert len(set(ids)) == len(ids) == 3


def test_truncated_message_is_read_from_its_head() -> None:
    report = bounce(verp(), padding=10_000)
    (event,) = normalized_mail(report[:1_500], {**ENVELOPE, TRUNCATED_HEADER: str(len(report))})[0]
    assert (event.kind, event.enhanced) == (EventKind.BOUNCED, "5.1.1")
    assert json.loads(bytes(event.native))["truncated"] is True


def test_unproven_mail_becomes_a_dead_letter() -> None:
    raw = mail_record(golden("without_verp"), 5, to="postmaster@mailfold.localhost")
    place = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=0, offset=7)
    record = ConsumedRecord(PROVIDER_WEBHOOKS, place, None, encode(PROVIDER_WEBHOOKS, raw))
    text = normalize(record, CONTEXT.token_readers, 9)
    assert text.events == ()
    assert [(letter.reason, letter.source) for letter in text.dead_letters] == [("unproven", place)]


def test_mail_is_refused_as_a_webhook() -> None:
    with pytest.raises(InvalidSignatureError):
        bounce_mail.verify(WebhookRequest(headers={}, body=b""), ["key"], 0, 60)


@pytest.mark.parametrize(
    ("status", "said", "code", "enhanced", "verdict"),
    [
        ("5.1.1", "550 5.1.1 no such user", 550, "5.1.1", "hard"),
        ("5.0.0", "550-5.1.1 The account does not exist", 550, "5.1.1", "hard"),
        ("5.0.0", "550 Unknown user", 550, "5.0.0", "hard"),
        ("5.0.0", "554 Transaction failed", 554, "5.0.0", "soft"),
        ("5.0.0", "", 0, "5.0.0", "soft"),
        ("", "", 0, "", "soft"),
        ("5.2.2", "552 5.2.2 Mailbox full", 552, "5.2.2", "soft"),
        ("5.1.1", "550 5.1.1 user is over quota", 550, "5.1.1", "soft"),
        ("5.2.1", "550 5.2.1 mailbox disabled", 550, "5.2.1", "hard"),
        ("5.2.1", "550 5.2.1 The user is receiving mail at a rate that prevents", 550, "5.2.1", "soft"),
        ("5.7.1", "550 5.7.1 Message rejected as spam", 550, "5.7.1", "soft"),
        ("5.7.1", "550 5.7.1 <a@example.net>: Recipient address rejected: User unknown", 550, "5.7.1", "hard"),
        ("5.7.1", "550 5.7.1 Sender address rejected: Domain not found, user unknown", 550, "5.7.1", "soft"),
        ("5.1.1", "550 5.7.1 IP address is on a blacklist", 550, "5.7.1", "soft"),
        ("5.1.1", "550 5.1.1 listed at zen.spamhaus.example", 550, "5.1.1", "soft"),
        ("5.1.8", "550 5.1.8 Domain of sender does not exist", 550, "5.1.8", "soft"),
        ("5.4.4", "Host or domain name not found", 0, "5.4.4", "hard"),
        ("5.4.1", "connect timed out", 0, "5.4.1", "soft"),
        ("5.3.2", "521 5.3.2 host does not accept mail", 521, "5.3.2", "hard"),
        ("4.1.1", "450 4.1.1 user unknown", 450, "4.1.1", "soft"),
        ("5.1.1", "550 5.1.1 <spam-policy@example.net> no such user", 550, "5.1.1", "hard"),
        ("5.7.17", "550 5.7.17 mailbox owner has changed", 550, "5.7.17", "hard"),
        ("5.6.3", "554 5.6.3 too large", 554, "5.6.3", "soft"),
    ],
)
def test_codes_and_text_determine_the_bounce_class(
    status: str, said: str, code: int, enhanced: str, verdict: str
) -> None:
    assert classify.classify_reply(status, said) == classify.BounceVerdict(code, enhanced, BounceClass(verdict))
    assert classify.address_bounce_class(classify.classify_reply(status, said), forwarded=True) is BounceClass.SOFT


# ---------------------------------------------------------------- nobody's bytes break it
@given(st.sampled_from(NAMES), st.data())
@FUZZED
def test_damaged_mail_is_still_read(name: str, data: st.DataObject) -> None:
    raw = bytearray(golden(name))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(raw)))
        end = min(len(raw), start + data.draw(st.integers(0, 200)))
        piece = data.draw(
            st.one_of(st.binary(max_size=40), st.sampled_from(HOSTILE), st.just(bytes(raw[start:end]) * 3))
        )
        raw[start:end] = piece
    _is_sound(bytes(raw))


@given(st.lists(st.one_of(st.binary(max_size=200), st.text().map(str.encode)), max_size=20))
@FUZZED
def test_arbitrary_bytes_are_read_without_an_error(pieces: list[bytes]) -> None:
    _is_sound(b"\r\n".join(pieces))


HOSTILE = [
    b"\x00",
    b"\r",
    b"\n\n",
    b"\r\n\r\n",
    b"\xff\xfe",
    b"--",
    b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" * 30,
    b"Content-Type: multipart/mixed; boundary*0*=utf-8'x'%ff%; boundary*1*=\n",
    b"Content-Type: text/plain; charset=\x00; charset*=x'y'z\n",
    b"Content-Transfer-Encoding: base64\n",
    b"Content-Transfer-Encoding: quoted-printable\n",
    b"Subject: =?utf-8?b?////?= =?x-unknown?q?=zz?= =?utf-7?q?+AAA?=\n",
    b"Status: 5.999.99999\n",
    b"Action: failed\nAction: delivered\n",
    b"Date: Fri, 99 Jan 99999 99:99:99 +9999\n",
    b"Final-Recipient: rfc822; " + b"a" * 5_000 + b"@b\n",
    b"Final-Recipient: utf-8; \\x{110000}\\x{D800}\\x{0}@b\n",
]


def _is_sound(raw: bytes) -> None:
    """Events of the one email that the signatures name, or none; and they can lie on the log."""
    for event in normalized_mail(raw, ENVELOPE)[0] + normalized_mail(raw)[0]:
        assert event.email_id == EMAIL_ID
        assert decode(DELIVERY_EVENTS, encode(DELIVERY_EVENTS, event)) == event
        assert not ADDRESS.search(msgspec.json.encode(event).decode().replace(event.event_id, ""))


NESTED = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(20_000))
LARGE = 880_000


@pytest.mark.parametrize(
    "raw",
    [
        NESTED.encode(),
        b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n" * (LARGE // 4),
        b"Content-Type: multipart/mixed; boundary=a\n\n"
        + b"--a\nContent-Type: multipart/mixed; boundary=a\n\n" * 20_000,
        b"Content-Type: multipart/mixed; " + b'";' * 30_000 + b"\n\nx",
        b"Subject: " + b"=?" * 30_000 + b"\n\n" + b"\n" * LARGE,
        b"X: y\n" * (LARGE // 5),
        b"From: MAILER-DAEMON\n\n" + b" \n-" * (LARGE // 3),
        b"From: MAILER-DAEMON\n\n" + b"user " * (LARGE // 5),
        b"From: MAILER-DAEMON\n\n" + b"a" * LARGE,
        b"From: MAILER-DAEMON\n\n" + b"delivery unknown mailbox over " * (LARGE // 30),
        b"Content-Type: message/delivery-status\n\n" + b"Final-Recipient: x\n" * (LARGE // 19),
        b"Content-Type: message/delivery-status\n\n" + b"Final-Recipient: rfc822;a@b\n\n" * (LARGE // 29),
        b"Content-Type: text/html\n\n" + b"<" * LARGE,
        b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n" + b"QUFB\n" * (LARGE // 5),
        b"Final-Recipient: x\n\nFinal-Recipient: x\n" + b"Final-Recipient: x\n" * (LARGE // 19),
        b"To: " + b"b-" * LARGE,
        b"In-Reply-To: " + b"<" * LARGE,
        b"Content-Type: message/delivery-status\n\nFinal-Recipient: x\nAction: failed\nDiagnostic-Code: "
        + b"over " * 100_000,
    ],
)
@pytest.mark.timeout(60)  # quadratic time would take many minutes
def test_hostile_mail_is_read_in_limited_time(raw: bytes) -> None:
    normalized_mail(raw[:LARGE], ENVELOPE)


MACHINE = b"From: mailer-daemon@x\r\nSubject: x\r\n\r\n"
PADDED: dict[str, Callable[[int], bytes]] = {
    "unable to": lambda n: MACHINE + b"unable to" + b" " * n + b"x\r\n",
    "to one or more": lambda n: MACHINE + b"could not be delivered to one or more of its" + b" " * n + b"x\r\n",
    "failed a a a": lambda n: MACHINE + b"failed " + b"a " * (n // 2) + b"\r\n",
    "one parameter": lambda n: b'From: a@x\r\nContent-Type: multipart/mixed; a="' + b";" * n + b"\r\n\r\nx\r\n",
    "mail in From": lambda n: b"From: mail" + b" " * n + b"x\r\n\r\nx\r\n",
    "encoded words": lambda n: b"Subject: " + b"=?utf-8?q?" * (n // 10) + b"\r\n\r\nx\r\n",
    "diagnostic": lambda n: bounce(verp()).replace(b"no such user", b"exceed" * (n // 6)),
}


@pytest.mark.parametrize("name", sorted(PADDED))
def test_reading_a_mail_takes_linear_time(name: str) -> None:
    def cost(size: int) -> float:
        raw, costs = PADDED[name](size), []
        for _ in range(4):
            start = time.process_time()
            normalized_mail(raw, ENVELOPE)
            costs.append(time.process_time() - start)
        return min(costs)

    # Twice, because the machine may have been busy at the first.
    assert min(cost(16_000) / max(cost(8_000), 2e-3) for _ in range(2)) <= 2.5


# ---------------------------------------------------------------- automatic answers
@pytest.mark.parametrize(
    "subject",
    [
        "[External] Automatic reply: Offer",
        "[EXT] [SPAM?] Out of Office: Offer",
        "***SPAM*** Automatische Antwort: Angebot",
        "EXTERNAL: AW: Abwesenheitsnotiz",
        "(External) Réponse automatique : Offre",
        "Autosvar: Tilbud",
        "Автоматический ответ: привет",
        "자동 회신: 제안",
        "自动答复: 你好",
    ],
)
def test_automatic_reply_is_recognised_behind_tags_and_in_many_languages(subject: str) -> None:
    raw = f"From: a@example.net\nTo: {verp()}\nSubject: {subject}\nMessage-ID: <1@x>\n\nI am away.\n".encode()
    assert [event.kind for event in normalized_mail(raw, ENVELOPE)[0]] == [EventKind.REPLIED]


def receipt(subject: str, disposition: str, text: str, more: str = "") -> bytes:
    return (
        f"From: a@example.net\nTo: {verp()}\nSubject: {subject}\nMessage-ID: <1@x>\n{more}"
        'Content-Type: multipart/report; report-type=disposition-notification; boundary="b"\n\n'
        f"--b\nContent-Type: text/plain\n\n{text}\n"
        f"--b\nContent-Type: message/disposition-notification\n\nDisposition: {disposition}\n--b--\n"
    ).encode()


AUTOMATIC = "automatic-action/MDN-sent-automatically"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (receipt("Not read: Offer", f"{AUTOMATIC}; deleted", "Your message was deleted unread."), EventKind.UNKNOWN),
        (receipt("Read: Offer", "manual-action/MDN-sent-manually; displayed", "Read."), EventKind.UNKNOWN),
        (receipt("Declined", "manual-action/MDN-sent-manually; denied", "No receipt."), EventKind.UNKNOWN),
        (receipt("Rejected: Offer", f"{AUTOMATIC}; deleted", "user unknown, says a person"), EventKind.BOUNCED),
        (receipt("x", f"{AUTOMATIC}; denied", "x", "Auto-Submitted: auto-replied (rejected)\n"), EventKind.BOUNCED),
    ],
)
def test_receipt_is_a_soft_bounce_only_where_a_filter_rejected(raw: bytes, kind: EventKind) -> None:
    (event,) = normalized_mail(raw, ENVELOPE)[0]
    assert event.kind is kind
    assert event.bounce_class is (BounceClass.SOFT if kind is EventKind.BOUNCED else None)
    assert event.text == ""


@pytest.mark.parametrize(
    ("original", "final", "verdict"),
    [
        ('"a b"@example.net', '"a b"@EXAMPLE.net', "hard"),
        ("a..b@example.net", '"a..b"@example.net', "hard"),
        ("a+2Btag@example.net", "a+tag@example.net", "hard"),
        ("a@example.net", "b@example.net", "soft"),
    ],
)
def test_other_spelling_of_the_same_address_is_not_forwarding(original: str, final: str, verdict: str) -> None:
    raw = bounce(verp()).decode()
    for field, address in (("Original-Recipient: rfc822;", original), ("Final-Recipient: rfc822; ", final)):
        raw = raw.replace(f"{field}anna@example.net", field + address)
    (event,) = normalized_mail(raw.encode(), ENVELOPE)[0]
    assert event.bounce_class is BounceClass(verdict)
