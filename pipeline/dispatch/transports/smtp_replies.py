"""Interpret the last reply of an SMTP server: the outcome of the email and the health of the provider.

Pure; called by the SMTP transport and, for the text of acks, by the result handler.
"""

import re
from dataclasses import replace
from enum import StrEnum
from typing import Final

from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.jobs.job import EndpointHealth
from pipeline.webhooks.redaction import redact_all
from topics import refusals


class SmtpStage(StrEnum):
    """The stage that an SMTP conversation reached."""

    CONNECT = "connect"
    SECURE = "tls"
    LOGIN = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    """The message is being sent; without a reply the outcome is unknown."""


_ENHANCED: Final = re.compile(r"\A\s*([245]\.\d{1,3}\.\d{1,3})\b")
_PROVIDER_IDS: Final = (
    re.compile(r"\bqueued as[: ]+<?([\w.@+/=-]{5,200})", re.IGNORECASE),  # Postfix, SendGrid
    re.compile(r"\bid=<?([\w.@+-]{5,200})"),  # Exim
    re.compile(r"\AOk:? +([\w.@-]{16,200})\s*\Z", re.IGNORECASE),  # Amazon SES
)
RECIPIENT_PLACEHOLDER: Final = "[recipient]"
"""Replacement of the address in stored texts; in brackets, so that it is not mistaken for a word of the reply."""
_TOO_LARGE: Final = (552, 523)
"""Replies to MAIL that are about the SIZE we announced (RFC 1870), not about the account."""
_ADDRESS_UNSUPPORTED: Final = 553
"""Reply, of a server or made by us, that an address of this email cannot be used here."""


def smtp_result(stage: SmtpStage, code: int, text: str) -> SendResult:
    """Return the result of a conversation from its last reply; code 0 means that there was none."""
    outcome = smtp_outcome(stage, code, text)
    message_id = provider_message_id(text) if outcome is SendOutcome.TAKEN else ""
    concerns_one_email = stage in (SmtpStage.RCPT, SmtpStage.DATA)
    is_quoted = concerns_one_email and _quotes_recipient_server(outcome, text)
    health = EndpointHealth.HEALTHY if is_quoted else _endpoint_health(stage, code, outcome)
    return SendResult(outcome, code, text, health, message_id, stage=stage, concerns_one_email=concerns_one_email)


def _quotes_recipient_server(outcome: SendOutcome, text: str) -> bool:
    """Return whether a configuration fault is quoted from the recipient's server.

    Such a reply must not open the breaker of the provider: any recipient could cause it.
    """
    return outcome is SendOutcome.MISCONFIGURED and refusals.quotes_another_server(text)


def as_recipient_server_result(result: SendResult) -> SendResult:
    """Return the result for a server that is the recipient's own: what it says of one email does not stop others."""
    if result.concerns_one_email and result.outcome is SendOutcome.MISCONFIGURED:
        return replace(result, health=EndpointHealth.HEALTHY)
    return result


def smtp_outcome(stage: SmtpStage, code: int, text: str = "") -> SendOutcome:
    """Return the outcome of an email from the last reply and the stage that the conversation reached."""
    if stage is SmtpStage.DATA:
        return _data_outcome(code, text)
    if code >= 500:
        return _refusal_outcome(stage, code, text)
    if stage is SmtpStage.SECURE:
        return SendOutcome.MISCONFIGURED
    return SendOutcome.LATER


def _data_outcome(code: int, text: str) -> SendOutcome:
    """Return the outcome of DATA; UNKNOWN without a reply, because the server may have the message."""
    if 200 <= code < 300:
        return SendOutcome.TAKEN
    if code < 200:
        return SendOutcome.UNKNOWN
    return SendOutcome.LATER if code < 500 else _recipient_outcome(code, text)


def _refusal_outcome(stage: SmtpStage, code: int, text: str) -> SendOutcome:
    if stage is SmtpStage.RCPT:
        return _recipient_outcome(code, text)
    is_too_large = code in _TOO_LARGE
    is_address_unsupported = (
        code == _ADDRESS_UNSUPPORTED
        and refusals.judge_refusal(code, enhanced_status(text), text).cause is not refusals.RefusalCause.SETUP
    )
    if stage is SmtpStage.MAIL and (is_too_large or is_address_unsupported):
        return SendOutcome.REFUSED
    return SendOutcome.MISCONFIGURED


def _recipient_outcome(code: int, text: str) -> SendOutcome:
    """Return the outcome of a refusal of the recipient: a bounce, unless the text blames the sending account."""
    is_setup_fault = refusals.is_setup_fault(code, enhanced_status(text), text)
    return SendOutcome.MISCONFIGURED if is_setup_fault else SendOutcome.REJECTED


def _endpoint_health(stage: SmtpStage, code: int, outcome: SendOutcome) -> EndpointHealth:
    """Return the health that a reply shows: 421 and no reply count as failures, any other reply shows it works."""
    if outcome is SendOutcome.MISCONFIGURED:
        return EndpointHealth.BROKEN
    before_mail = stage in (SmtpStage.CONNECT, SmtpStage.SECURE, SmtpStage.LOGIN)
    return EndpointHealth.FAILING if code in (0, 421) or before_mail else EndpointHealth.HEALTHY


def enhanced_status(text: str) -> str:
    """Return the enhanced status code (RFC 3463) at the beginning of a reply; an empty string if it has none."""
    match = _ENHANCED.match(text)
    return match[1] if match else ""


def provider_message_id(text: str) -> str:
    """Return the provider's message id if the text of its 250 reply contains one; otherwise an empty string."""
    words = _ENHANCED.sub("", text).strip()
    return next((match[1] for pattern in _PROVIDER_IDS if (match := pattern.search(words))), "")


def redacted(text: str, recipient: str) -> str:
    """Return the text of a reply without addresses, with printable characters only and at most 1,000 of them."""
    printable = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode())
    if recipient.lower() in printable.lower():
        printable = re.sub(re.escape(recipient), RECIPIENT_PLACEHOLDER, printable, flags=re.IGNORECASE)
    return redact_all(printable)[:1000]


def ack_text(result: SendResult, recipient: str) -> str:
    """Return the text of a reply as it is stored in an ack.

    If the server refused the email after the message was sent, a phrase that says so is added, as servers write it in
    bounces. So a later classification of the ack from the log has the same result.
    """
    text = redacted(result.text, recipient)
    is_refused_after_data = result.outcome is SendOutcome.REJECTED and result.stage == SmtpStage.DATA
    return f"{text} {refusals.STAGE_PHRASES['data']}".lstrip() if is_refused_after_data else text
