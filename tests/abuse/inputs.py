"""Hostile inputs, each as large as asked: what strangers, one tenant's key or a recipient could send. Pure.

Shared by the test of every surface (`tests/integration/test_worst_inputs.py`) and by `make abuse`.
"""

import gzip
import json
from typing import Any, Final

from tests.support.dialects import BRAND, email_v1, extrahorizon, freshmail
from tests.support.fasttrack import message


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# ----------------------------------------------------------------------- send requests
def blank_recipient(size: int) -> bytes:
    """Extra Horizon: a recipient of spaces, on which a pattern for `Name <address>` could backtrack."""
    return _json(extrahorizon(recipients={"to": [" " * size]}))


def encoded_words_subject(size: int) -> bytes:
    """Fast Track: a subject of beginnings of encoded words (RFC 2047), none of which ends."""
    return _json([message("words", subject="=?a?q?" * (size // 6))])


def long_domains(size: int, count: int = 10) -> bytes:
    """Fast Track: addresses with domains of megabytes, each another one, that a cache could keep."""
    each = size // count
    return _json([message(f"d{nth}", email=f"a@{nth}." + "x" * each) for nth in range(count)])


def deep_lists(size: int) -> bytes:
    """Lists in lists, as deep as the size allows."""
    return b'[{"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}]"


def long_string_then_lists(size: int) -> bytes:
    """Extra Horizon: a long string before many small lists, which a scan for brackets reads byte by byte."""
    return _json(extrahorizon(body="x" * size, content={"many": [[]] * 40}))


def many_small_items(size: int) -> bytes:
    """Fast Track: as many items as fit, none of which is a message."""
    return b"[" + b",".join([b"{}"] * (size // 3)) + b"]"


def anchors(size: int, piece: str = "<a ", identity: str = "anchors") -> bytes:
    """Fast Track: content of tags that never end."""
    return _json([message(identity, content="<p>x</p>" + piece * (size // len(piece)))])


def repeated_values(size: int, recipients: int = 60) -> bytes:
    """FreshMail: few recipients with a long value each, which the content repeats 600 times."""
    value = "\N{GRINNING FACE}" * max(1, size // recipients // 12)
    people = [{"email": f"u{nth}@e.example", "personalization": {"a": value}} for nth in range(recipients)]
    kinds = ("text/html", "text/plain")
    return _json(freshmail(*people, contents=[{"type": kind, "body": "$$a$$" * 600} for kind in kinds]))


def templated_messages(size: int) -> bytes:
    """`/v1/Email/`: many small messages of a template, which is large."""
    one = len(_json(email_v1())) + 2
    return _json({"Messages": [email_v1(To=f"u{nth}@e.example") for nth in range(size // one)]})


def steering_headers(size: int) -> bytes:
    """FreshMail: headers that mean something to the provider, many of them."""
    names = ("X-SES-SOURCE-ARN", "X-MC-Subaccount", "X-Mailgun-Drop-Message", "X-PM-Message-Stream", "X-SMTPAPI")
    return _json(freshmail(headers={f"{name}-{nth}": "x" * 50 for nth in range(size // 350) for name in names}))


def zipped(size: int) -> bytes:
    """Gzip of a thousandth of the size that it unpacks to."""
    return gzip.compress(b'[{"content":"' + b"x" * size + b'"}]')


# --------------------------------------------------------------------------- templates
def _draft(texts: dict[str, Any], **more: Any) -> bytes:
    return _json({"texts": {"default": texts}, **more})


def mixed_required(size: int) -> bytes:
    """A schema whose `required` holds names and numbers, which a check for repeats compares each with each."""
    mixed = [item for nth in range(size // 14) for item in (nth, f"a{nth}")]
    return _draft({"subject": "s", "text": "t"}, schema={"type": "object", "required": mixed})


def placeholders(size: int) -> bytes:
    """Nothing but placeholders."""
    return _draft({"subject": "s", "text": "{{a}}" * (size // 5)})


def open_marks(size: int) -> bytes:
    """Placeholders that are never closed."""
    return _draft({"subject": "s", "text": "{{" * (size // 4) + "{%" * (size // 4)})


def comparisons(size: int) -> bytes:
    """A template that compares two variables again and again."""
    return _draft({"subject": "s", "text": "{% if a == b %}{% endif %}" * (size // 26)})


def equal_lists(size: int) -> bytes:
    """Values for it: two long lists that differ in nothing."""
    numbers = list(range(1000, 1000 + size // 12))
    return _json({"variables": {"a": numbers, "b": numbers}})


# ---------------------------------------------------------------------------- webhooks
def bounce_words(size: int, word: str = "exceed") -> bytes:
    """A provider's event whose reason is one word of our tables, over and over."""
    event = {
        "event": "bounce",
        "email": "x@example.test",
        "timestamp": 1_767_225_600,
        "sg_event_id": "words",
        "sg_message_id": "words",
        "reason": "550 5.0.0 " + word * (size // len(word)),
    }
    return _json([event])


def foreign_notification(size: int) -> bytes:
    """SNS: a notification of somebody else's topic, unsigned, whose certificate would lie under an endless address."""
    host = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-"
    envelope = {
        "Type": "Notification",
        "MessageId": "1",
        "TopicArn": "arn:aws:sns:eu-west-1:666:foreign",
        "Message": "{}",
        "Timestamp": "2026-01-01T00:00:00Z",
        "SignatureVersion": "1",
        "Signature": "AA==",
        "SigningCertURL": host + "a" * size + ".pem",
    }
    return _json(envelope)


# -------------------------------------------------------------------------------- mail
FORGED_VERP: Final = "b-" + "a" * 26 + "-" + "b" * 26 + "@{domain}"
"""The shape of a return path of ours, with a signature that is none."""


def spaced_words(size: int, words: str = "unable to") -> bytes:
    """A bounce in words: some of ours, spaces, and nothing behind them."""
    return f"From: mailer-daemon@x\r\nSubject: x\r\n\r\n{words}".encode() + b" " * size + b"x\r\n"


def parameters(size: int) -> bytes:
    """A Content-Type of nothing but empty parameters."""
    head = b'From: mailer-daemon@x\r\nContent-Type: multipart/mixed; a="'
    return head + b";" * min(size, 32_000) + b"\r\n\r\nx\r\n" + b"x" * max(0, size - 32_000)


def parameters_in_parts(size: int) -> bytes:
    """The same in each of many parts."""
    part = b'--zz\r\nContent-Type: multipart/mixed; a="' + b";" * 32_000 + b"\r\n\r\nx\r\n"
    head = b"From: mailer-daemon@x\r\nContent-Type: multipart/mixed; boundary=zz\r\n\r\n"
    return head + part * max(1, size // len(part)) + b"--zz--\r\n"


def delay_report(nth: int) -> bytes:
    """A report of delay as a server writes it; each with another Message-ID."""
    return (
        f"From: MAILER-DAEMON@x\r\nMessage-ID: <{nth}@x>\r\nContent-Type: multipart/report; boundary=b\r\n\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; x\r\n\r\n"
        "Final-Recipient: rfc822; a@example.test\r\nAction: delayed\r\nStatus: 4.0.0\r\n\r\n--b--\r\n"
    ).encode()


TEMPLATE: Final = f"{BRAND}.token"
"""The template that :func:`templated_messages` asks for."""
LARGE_TEMPLATE_HTML: Final = "<p>{{ Token }}</p>" + "x" * 240_000
