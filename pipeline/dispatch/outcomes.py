"""An SMTP answer in, what it means for the email, the lane and the schedule out. Pure."""

import re
from enum import Enum, auto
from typing import Final

from pipeline.outbox.job import Lane
from pipeline.smtp import Answer, Stage


class Meaning(Enum):
    """What became of the email."""

    TAKEN = auto()
    REJECTED = auto()
    """By the recipient's server, at once and for good: a bounce."""
    REFUSED = auto()
    """Nobody takes this message as it is, whoever it goes to: a failure."""
    LATER = auto()
    UNKNOWN = auto()
    """The message went out and no answer came back."""
    MISCONFIGURED = auto()
    """They don't want *us*: no fault of the email's, no attempt burnt, never a bounce."""


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


def meaning(answer: Answer) -> Meaning:
    """What an answer means."""
    if answer.stage is Stage.DATA:
        return _of_data(answer.code)
    if answer.code >= 500:
        return _of_refusal(answer)
    if answer.stage is Stage.SECURE:
        return Meaning.MISCONFIGURED
    return Meaning.LATER


def _of_data(code: int) -> Meaning:
    if 200 <= code < 300:
        return Meaning.TAKEN
    if code < 200:
        return Meaning.UNKNOWN
    return Meaning.LATER if code < 500 else Meaning.REJECTED


def _of_refusal(answer: Answer) -> Meaning:
    if answer.stage is Stage.RCPT:
        return Meaning.REJECTED
    if answer.stage is Stage.MAIL and answer.code in (*_TOO_LARGE, _OWN_ADDRESS):
        return Meaning.REFUSED
    return Meaning.MISCONFIGURED


def lane_news(answer: Answer) -> Lane:
    """What an answer tells of the provider: 421 and silence count towards the breaker, other answers show life."""
    if meaning(answer) is Meaning.MISCONFIGURED:
        return Lane.BROKEN
    early = answer.stage in (Stage.CONNECT, Stage.SECURE, Stage.LOGIN)
    return Lane.FAILING if answer.code in (0, 421) or early else Lane.HEALTHY


def enhanced(text: str) -> str:
    """The enhanced status code (RFC 3463) that a reply begins with."""
    found = _ENHANCED.match(text)
    return found[1] if found else ""


def provider_message_id(text: str) -> str:
    """What the provider calls the message, where its 250 says so."""
    words = _ENHANCED.sub("", text).strip()
    return next((found[1] for pattern in _PROVIDER_IDS if (found := pattern.search(words))), "")


def redacted(text: str, recipient: str) -> str:
    """A reply's words, printable and bounded, without the address that it may repeat."""
    printable = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode())
    if recipient.lower() in printable.lower():
        printable = re.sub(re.escape(recipient), "recipient", printable, flags=re.IGNORECASE)
    return printable[:1000]
