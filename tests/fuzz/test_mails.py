"""Fuzz tests of bounces and other inbound mail with damaged messages, which anybody can send."""

import contextlib
import copy
import urllib.parse

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import Unproven, Unrecognised
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.providers import bounce_mail
from pipeline.webhooks.token_readers import token_readers
from tests.conftest import RING
from tests.fuzz.test_adapters import FUZZED, damage_bytes
from tests.support.golden import ADDRESS as ADDRESSES
from tests.support.golden import FOLDER, RECEIVED_AT
from tests.support.inbound import EMAIL_ID, bounce, message_id, unsubscribe, verp
from topics.codec import decode, encode
from topics.registry import DELIVERY_EVENTS

ADDRESS = "anna@example.net"
CONTEXT = EventContext(provider="inbound", received_at=RECEIVED_AT, token_readers=token_readers(RING))


def lines(*parts: str) -> bytes:
    return "\r\n".join((*parts, "")).encode()


def feedback_report() -> bytes:
    return lines(
        f"From: <fbl@example.net>\r\nTo: {verp()}",
        "Subject: FW: hello\r\nMIME-Version: 1.0\r\nDate: Fri, 2 Jan 2026 03:04:05 +0000",
        'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\r\n',
        "--b\r\nContent-Type: text/plain\r\n\r\nThis is an email abuse report.\r\n",
        "--b\r\nContent-Type: message/feedback-report\r\n",
        "Feedback-Type: abuse\r\nUser-Agent: Reporter/1.0\r\nVersion: 1",
        f"Original-Rcpt-To: <{ADDRESS}>\r\n",
        "--b\r\nContent-Type: message/rfc822\r\n",
        f"Message-ID: {message_id()}\r\nTo: {ADDRESS}\r\nSubject: hello\r\n\r\nhello\r\n",
        "--b--",
    )


def out_of_office() -> bytes:
    return lines(
        f"From: Anna <{ADDRESS}>\r\nTo: {verp()}",
        f"Subject: Away\r\nAuto-Submitted: auto-replied\r\nIn-Reply-To: {message_id()}",
        f"Date: Fri, 2 Jan 2026 03:04:05 +0000\r\n\r\nWrite to {ADDRESS}.",
    )


def textual_bounce() -> bytes:
    return lines(
        f"From: MAILER-DAEMON@mx.example.net\r\nTo: {verp()}\r\nSubject: failure notice",
        "Date: Fri, 2 Jan 2026 03:04:05 +0000\r\n",
        "Hi. This is the qmail-send program at mx.example.net.",
        "I'm afraid I wasn't able to deliver your message to the following addresses.\r\n",
        f"<{ADDRESS}>:\r\n550 5.1.1 <{ADDRESS}>: no such user\r\n",
        "--- Below this line is a copy of the message.\r\n\r\nReturn-Path: <x>",
    )


def unsubscribe_mail() -> bytes:
    return lines(f"From: Anna <{ADDRESS}>\r\nTo: {unsubscribe()}\r\nSubject: unsubscribe\r\n", "")


MAILS = (bounce(verp()), feedback_report(), out_of_office(), textual_bounce(), unsubscribe_mail())
GOLDEN_MAILS = tuple(path.read_bytes() for path in sorted((FOLDER / "mail").glob("*.eml")))
"""Mails of real servers."""
HOSTILE = st.sampled_from(
    [
        b"=?utf-8?q?" + b"=00" * 50 + b"?=",
        b"=?x-unknown?b?////?=",
        b'Content-Type: multipart/report; boundary=""',
        b"Content-Type: multipart/mixed; boundary=b",
        b"Content-Type: text/plain; charset=utf-7",
        b"Content-Transfer-Encoding: base64",
        b"Content-Transfer-Encoding: x-uuencode",
        b"Date: Fri, 32 Jan 99999 25:61:61 +9999",
        b"Status: 9.9.9.9",
        b"Action: " + b"x" * 2_000,
        b"Final-Recipient: rfc822;" + b"a" * 5_000,
        b"Final-Recipient: utf-8; \\x{e4}nna@example.net",
        b"--b",
        b"--b--",
        b"\xff\xfe\x00",
        b" folded",
        b":",
        b"",
    ]
)


@st.composite
def damaged_mails(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a mail, and the same mail with lines moved, repeated, removed or replaced."""
    mail = draw(st.sampled_from(MAILS + GOLDEN_MAILS))
    if draw(st.booleans()):
        return mail, damage_bytes(draw, mail)
    parts = mail.replace(b"\r\n", b"\n").split(b"\n")
    for _ in range(draw(st.integers(1, 6))):
        place, other = draw(st.integers(0, len(parts) - 1)), draw(st.integers(0, len(parts) - 1))
        damage = draw(st.integers(0, 4))
        line = copy.copy(parts[place])
        if damage in (0, 1):
            parts[place] = draw(HOSTILE) if damage else b""
        elif damage == 2:
            parts[place], parts[other] = parts[other], line
        else:
            parts[other:other] = [line] * (1 if damage == 3 else draw(st.integers(1, 300)))
    return mail, draw(st.sampled_from([b"\r\n", b"\n"])).join(parts)


@FUZZED
@given(
    damaged_mails(),
    st.sampled_from(["", verp(), unsubscribe(), "someone@example.net"]),
    st.sampled_from(["", "<>", ADDRESS]),
)
@example((MAILS[0], MAILS[0]), "", "<>")
def test_damaged_mails_are_recognised_or_ignored(mails: tuple[bytes, bytes], to: str, sender: str) -> None:
    """Nothing but Unrecognised and Unproven is raised; events can be encoded, name our email and contain no address."""
    original, raw = mails
    envelope = {"x-envelope-to": to, "x-envelope-from": sender}
    for report in bounce_mail.split(raw, envelope):
        with contextlib.suppress(Unrecognised, Unproven):
            fact = bounce_mail.normalize(report, CONTEXT)
            encoded = encode(DELIVERY_EVENTS, fact)
            assert decode(DELIVERY_EVENTS, encoded) == fact
            assert fact.email_id == EMAIL_ID
            text = urllib.parse.unquote(encoded.decode()).lower()
            addresses = ADDRESSES.findall(original.decode("utf-8", "replace").lower())
            assert not [address for address in addresses if address in text]


def test_undamaged_mails_are_recognised() -> None:
    kinds = [
        bounce_mail.normalize(report, CONTEXT).kind.value for mail in MAILS for report in bounce_mail.split(mail, {})
    ]
    assert kinds == ["bounced", "complained", "replied", "bounced", "unsubscribed"]
