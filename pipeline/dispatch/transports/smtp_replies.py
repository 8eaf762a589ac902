"""An SMTP server's last reply in, what it means for the email, the lane and the schedule out. Pure."""

import re
from dataclasses import replace
from enum import StrEnum
from typing import Final

from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.jobs.job import EndpointHealth
from pipeline.webhooks.redaction import redact_all
from topics import verdict


class SmtpStage(StrEnum):
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
RECIPIENT_PLACEHOLDER: Final = "[recipient]"
"""In the place of the address; no word of a sentence, so that it can't be read as one."""
_TOO_LARGE: Final = (552, 523)
"""Said to MAIL, they speak of the SIZE that we announced (RFC 1870), not of us."""
_OWN_ADDRESS: Final = 553
"""Said by ourselves or a server: an address of this email can't be written here."""


def smtp_result(stage: SmtpStage, code: int, text: str) -> SendResult:
    """What a reply means. Code 0: none came."""
    means = smtp_outcome(stage, code, text)
    taken = provider_message_id(text) if means is SendOutcome.TAKEN else ""
    of_one = stage in (SmtpStage.RCPT, SmtpStage.DATA)
    lane = EndpointHealth.HEALTHY if _is_anybodys(means, of_one, text) else _lane(stage, code, means)
    return SendResult(means, code, text, lane, taken, stage=stage, concerns_one_email=of_one)


def _is_anybodys(means: SendOutcome, of_one: bool, text: str) -> bool:
    """Whether a fault of the set-up is told in the recipient's server's words, by which nobody may stop a lane."""
    return of_one and means is SendOutcome.MISCONFIGURED and verdict.quotes_another_server(text)


def as_recipient_server_result(answer: SendResult) -> SendResult:
    """Return the answer of a server that is the recipient's own: what it says of one email holds no other up."""
    if answer.concerns_one_email and answer.outcome is SendOutcome.MISCONFIGURED:
        return replace(answer, health=EndpointHealth.HEALTHY)
    return answer


def smtp_outcome(stage: SmtpStage, code: int, text: str = "") -> SendOutcome:
    """Return what became of the email, by the reply and how far the conversation came."""
    if stage is SmtpStage.DATA:
        return _of_data(code, text)
    if code >= 500:
        return _of_refusal(stage, code, text)
    if stage is SmtpStage.SECURE:
        return SendOutcome.MISCONFIGURED
    return SendOutcome.LATER


def _of_data(code: int, text: str) -> SendOutcome:
    if 200 <= code < 300:
        return SendOutcome.TAKEN
    if code < 200:
        return SendOutcome.UNKNOWN
    return SendOutcome.LATER if code < 500 else _of_recipient(code, text)


def _of_refusal(stage: SmtpStage, code: int, text: str) -> SendOutcome:
    if stage is SmtpStage.RCPT:
        return _of_recipient(code, text)
    too_large = code in _TOO_LARGE
    unwritable = (
        code == _OWN_ADDRESS
        and verdict.judge_refusal(code, enhanced_status(text), text).cause is not verdict.RefusalCause.SETUP
    )
    if stage is SmtpStage.MAIL and (too_large or unwritable):
        return SendOutcome.REFUSED
    return SendOutcome.MISCONFIGURED


def _of_recipient(code: int, text: str) -> SendOutcome:
    """A refusal after the recipient was named bounces, unless it blames the sending account."""
    setup_fault = verdict.is_setup_fault(code, enhanced_status(text), text)
    return SendOutcome.MISCONFIGURED if setup_fault else SendOutcome.REJECTED


def _lane(stage: SmtpStage, code: int, means: SendOutcome) -> EndpointHealth:
    """421 and silence count towards the breaker, other replies show life."""
    if means is SendOutcome.MISCONFIGURED:
        return EndpointHealth.BROKEN
    early = stage in (SmtpStage.CONNECT, SmtpStage.SECURE, SmtpStage.LOGIN)
    return EndpointHealth.FAILING if code in (0, 421) or early else EndpointHealth.HEALTHY


def enhanced_status(text: str) -> str:
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
        printable = re.sub(re.escape(recipient), RECIPIENT_PLACEHOLDER, printable, flags=re.IGNORECASE)
    return redact_all(printable)[:1000]


def ack_text(answer: SendResult, recipient: str) -> str:
    """Return a reply's words as an ack keeps them.

    A refusal after the message says so, as servers write it in their reports: who judges the ack again, from the log,
    judges it alike.
    """
    text = redacted(answer.text, recipient)
    after_message = answer.outcome is SendOutcome.REJECTED and answer.stage == SmtpStage.DATA
    return f"{text} {verdict.STAGE_PHRASES['data']}".lstrip() if after_message else text
