"""Bounced and other inbound mail, after something went wrong with it: it is what anybody can write."""

import contextlib
import copy
import urllib.parse

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import Unproven, Unrecognised
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.proofs import token_readers
from pipeline.webhooks.providers import bounce_mail
from tests.conftest import SECRET
from tests.fuzz.test_adapters import FUZZED, flipped
from tests.support.golden import ADDRESS as ADDRESSES
from tests.support.golden import FOLDER, RECEIVED_AT
from tests.support.inbound import EMAIL_ID, bounce, message_id, unsubscribe, verp
from topics.codec import decode, encode
from topics.registry import DELIVERY_EVENTS

ADDRESS = "anna@example.net"
TOLD = EventContext(provider="inbound", received_at=RECEIVED_AT, token_readers=token_readers(SECRET))


def lines(*given: str) -> bytes:
    return "\r\n".join((*given, "")).encode()


def feedback() -> bytes:
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


def textual() -> bytes:
    return lines(
        f"From: MAILER-DAEMON@mx.example.net\r\nTo: {verp()}\r\nSubject: failure notice",
        "Date: Fri, 2 Jan 2026 03:04:05 +0000\r\n",
        "Hi. This is the qmail-send program at mx.example.net.",
        "I'm afraid I wasn't able to deliver your message to the following addresses.\r\n",
        f"<{ADDRESS}>:\r\n550 5.1.1 <{ADDRESS}>: no such user\r\n",
        "--- Below this line is a copy of the message.\r\n\r\nReturn-Path: <x>",
    )


def wish() -> bytes:
    return lines(f"From: Anna <{ADDRESS}>\r\nTo: {unsubscribe()}\r\nSubject: unsubscribe\r\n", "")


MAILS = (bounce(verp()), feedback(), out_of_office(), textual(), wish())
WRITTEN = tuple(path.read_bytes() for path in sorted((FOLDER / "mail").glob("*.eml")))
"""As servers write them."""
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
def spoilt(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A mail, and the same with its lines elsewhere, twice, gone, or others'."""
    found = draw(st.sampled_from(MAILS + WRITTEN))
    if draw(st.booleans()):
        return found, flipped(draw, found)
    parts = found.replace(b"\r\n", b"\n").split(b"\n")
    for _ in range(draw(st.integers(1, 6))):
        place, other = draw(st.integers(0, len(parts) - 1)), draw(st.integers(0, len(parts) - 1))
        way = draw(st.integers(0, 4))
        taken = copy.copy(parts[place])
        if way in (0, 1):
            parts[place] = draw(HOSTILE) if way else b""
        elif way == 2:
            parts[place], parts[other] = parts[other], taken
        else:
            parts[other:other] = [taken] * (1 if way == 3 else draw(st.integers(1, 300)))
    return found, draw(st.sampled_from([b"\r\n", b"\n"])).join(parts)


@FUZZED
@given(
    spoilt(), st.sampled_from(["", verp(), unsubscribe(), "someone@example.net"]), st.sampled_from(["", "<>", ADDRESS])
)
@example((MAILS[0], MAILS[0]), "", "<>")
def test_whatever_somebody_writes_is_told_or_not(mails: tuple[bytes, bytes], to: str, sender: str) -> None:
    """Nothing else is raised; what is told can be written and read, is about an email of ours and names nobody."""
    whole, raw = mails
    envelope = {"x-envelope-to": to, "x-envelope-from": sender}
    for report in bounce_mail.split(raw, envelope):
        with contextlib.suppress(Unrecognised, Unproven):
            heard = bounce_mail.normalize(report, TOLD)
            lies = encode(DELIVERY_EVENTS, heard)
            assert decode(DELIVERY_EVENTS, lies) == heard
            assert heard.email_id == EMAIL_ID
            shown = urllib.parse.unquote(lies.decode()).lower()
            assert not [one for one in ADDRESSES.findall(whole.decode("utf-8", "replace").lower()) if one in shown]


def test_the_mails_that_are_spoilt_were_good_ones() -> None:
    heard = [
        bounce_mail.normalize(report, TOLD).kind.value for found in MAILS for report in bounce_mail.split(found, {})
    ]
    assert heard == ["bounced", "complained", "replied", "bounced", "unsubscribed"]
