"""An SMTP server's last reply in, what it means for the email, the lane and the schedule out. Pure."""

import re
from enum import StrEnum
from typing import Final

from pipeline.carriers.port import Answer, Meaning
from pipeline.hearing.privacy import hide_all
from pipeline.outbox.job import Lane


class Stage(StrEnum):
    """How far a conversation came."""

    CONNECT = "connect"
    SECURE = "tls"
    LOGIN = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    """The message may be there: without an answer, nobody knows."""


_ENHANCED: Final = re.compile(r"\A\s*([245]\.\d{1,3}\.\d{1,3})\b")
_PROVIDER_IDS: Final = (
    re.compile(r"\bqueued as[: ]+<?([\w.@+/=-]{5,200})", re.IGNORECASE),  # Postfix, SendGrid
    re.compile(r"\bid=<?([\w.@+-]{5,200})"),  # Exim
    re.compile(r"\AOk:? +([\w.@-]{16,200})\s*\Z", re.IGNORECASE),  # Amazon SES
)
_TOO_LARGE: Final = (552, 523)
"""Said to MAIL, they speak of the SIZE that we announced (RFC 1870), not of us."""
_OWN_ADDRESS: Final = 553
"""Said by ourselves or a server: an address of this email can't be written here."""


def answer(stage: Stage, code: int, text: str) -> Answer:
    """What a reply means. Code 0: none came."""
    means = meaning(stage, code)
    taken = provider_message_id(text) if means is Meaning.TAKEN else ""
    return Answer(means, code, text, _lane(stage, code, means), taken, stage=stage)


def meaning(stage: Stage, code: int) -> Meaning:
    """What became of the email."""
    if stage is Stage.DATA:
        return _of_data(code)
    if code >= 500:
        return _of_refusal(stage, code)
    if stage is Stage.SECURE:
        return Meaning.MISCONFIGURED
    return Meaning.LATER


def _of_data(code: int) -> Meaning:
    if 200 <= code < 300:
        return Meaning.TAKEN
    if code < 200:
        return Meaning.UNKNOWN
    return Meaning.LATER if code < 500 else Meaning.REJECTED


def _of_refusal(stage: Stage, code: int) -> Meaning:
    if stage is Stage.RCPT:
        return Meaning.REJECTED
    if stage is Stage.MAIL and code in (*_TOO_LARGE, _OWN_ADDRESS):
        return Meaning.REFUSED
    return Meaning.MISCONFIGURED


def _lane(stage: Stage, code: int, means: Meaning) -> Lane:
    """421 and silence count towards the breaker, other replies show life."""
    if means is Meaning.MISCONFIGURED:
        return Lane.BROKEN
    early = stage in (Stage.CONNECT, Stage.SECURE, Stage.LOGIN)
    return Lane.FAILING if code in (0, 421) or early else Lane.HEALTHY


def enhanced(text: str) -> str:
    """The enhanced status code (RFC 3463) that a reply begins with."""
    found = _ENHANCED.match(text)
    return found[1] if found else ""


def provider_message_id(text: str) -> str:
    """What the provider calls the message, where its 250 says so."""
    words = _ENHANCED.sub("", text).strip()
    return next((found[1] for pattern in _PROVIDER_IDS if (found := pattern.search(words))), "")


def redacted(text: str, recipient: str) -> str:
    """A reply's words, printable and bounded, without the addresses that it may repeat."""
    printable = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode())
    if recipient.lower() in printable.lower():
        printable = re.sub(re.escape(recipient), "recipient", printable, flags=re.IGNORECASE)
    return hide_all(printable)[:1000]
