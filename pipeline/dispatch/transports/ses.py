"""The API of Amazon SES, version 2: our MIME message, sent with `SendEmail`.

SES replaces Message-ID and Date and keeps the rest. `SendBulkEmail` takes one template for many recipients, so
independent messages do not fit; it has no idempotency.
"""

import base64
from collections.abc import Mapping
from typing import Final

import msgspec

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import (
    ApiRequest,
    ApiResponse,
    base_url,
    body_excerpt,
    option,
    outcome_of_status,
    send_result,
)
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.message_parts import check_size, echo
from pipeline.dispatch.transports.sigv4 import AwsCredential, signed_request
from topics.record import Millis

SUPPORTS_SMTPUTF8: bool = False
TAKES_MIME: bool = True
IS_IDEMPOTENT: bool = False
OPTION_NAMES: tuple[str, ...] = ("configuration_set",)
MAX_MESSAGE_BYTES: Final = 40_000_000

_SEND_PATH: Final = "/v2/email/outbound-emails"
_ACCOUNT_PATH: Final = "/v2/email/account"

ERROR_OUTCOMES: Final[Mapping[str, SendOutcome]] = {
    "MessageRejected": SendOutcome.REFUSED,
    "BadRequestException": SendOutcome.REFUSED,
    "ValidationException": SendOutcome.REFUSED,
    "TooManyRequestsException": SendOutcome.LATER,
    "LimitExceededException": SendOutcome.LATER,
    "ThrottlingException": SendOutcome.LATER,
    "Throttling": SendOutcome.LATER,
    "ServiceUnavailable": SendOutcome.LATER,
    "ServiceUnavailableException": SendOutcome.LATER,
    "InternalFailure": SendOutcome.UNKNOWN,
    "InternalServiceErrorException": SendOutcome.UNKNOWN,
    "AccountSuspendedException": SendOutcome.MISCONFIGURED,
    "SendingPausedException": SendOutcome.MISCONFIGURED,
    "MailFromDomainNotVerifiedException": SendOutcome.MISCONFIGURED,
    "NotFoundException": SendOutcome.MISCONFIGURED,
    # Our clock is wrong, which concerns all emails.
    "RequestExpired": SendOutcome.MISCONFIGURED,
    "InvalidSignatureException": SendOutcome.MISCONFIGURED,
    "IncompleteSignature": SendOutcome.MISCONFIGURED,
}
"""Outcomes by the name of the exception; any other 400 or 403 is about our credentials or permissions."""


def missing_settings(provider: Provider) -> str:
    """Return what the provider's row lacks."""
    required = {"a region": provider.region, "an access key id": provider.username, "a secret key": provider.password}
    return ", ".join(name for name, value in required.items() if not value)


def message_request(provider: Provider, mail: OutgoingEmail, now: Millis) -> ApiRequest:
    """Return a `SendEmail` request with the raw message."""
    check_size(len(mail.mime_bytes), MAX_MESSAGE_BYTES, "Amazon SES")
    payload = {
        "Content": {"Raw": {"Data": base64.b64encode(mail.mime_bytes).decode()}},
        # Only the recipient: the message's own headers may name other addresses too.
        "Destination": {"ToAddresses": [mail.envelope.recipient]},
        "EmailTags": [{"Name": name, "Value": value} for name, value in echo(mail.message).items()],
    }
    if name := option(provider, "configuration_set"):
        payload["ConfigurationSetName"] = name
    return _signed(provider, "POST", _SEND_PATH, msgspec.json.encode(payload), now)


def message_result(reply: ApiResponse) -> SendResult:
    """Return the result of a send, with the message id of SES, or the name and text of its exception."""
    fields = reply.fields()
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, "accepted", str(fields.get("MessageId", "")))
    name = _exception_name(reply)
    text = str(fields.get("message") or fields.get("Message") or body_excerpt(reply))
    # An identity that is not verified gets a MessageRejected too; `send_result` recognizes it by its text.
    outcome = ERROR_OUTCOMES.get(name) or _outcome_of_status(reply.status)
    return send_result(reply, outcome, f"{name} {text}".strip())


def check_request(provider: Provider, now: Millis) -> ApiRequest:
    """Return a `GetAccount` request."""
    return _signed(provider, "GET", _ACCOUNT_PATH, b"", now)


def credential_problem(reply: ApiResponse) -> str:
    """Return what is wrong with the credential, or that sending is switched off for the account."""
    if reply.status != 200:
        return message_result(reply).text
    return "" if reply.fields().get("SendingEnabled", True) else "sending is switched off for this account"


def _outcome_of_status(status: int) -> SendOutcome:
    """Return the outcome of a status whose exception is not in the table.

    A 400 or 403 is then about the signature, the key or its permissions.
    """
    return SendOutcome.MISCONFIGURED if status in (400, 403) else outcome_of_status(status)


def _exception_name(reply: ApiResponse) -> str:
    """Return the name in `x-amzn-ErrorType: Name:http://…`, or else in the body's `__type`, `prefix#Name`."""
    error_type = reply.headers.get("x-amzn-errortype") or str(reply.fields().get("__type", ""))
    return error_type.partition(":")[0].rpartition("#")[2]


def _signed(provider: Provider, method: str, path: str, body: bytes, now: Millis) -> ApiRequest:
    domain = "amazonaws.com.cn" if provider.region.startswith("cn-") else "amazonaws.com"
    url = base_url(provider, f"https://email.{provider.region}.{domain}") + path
    credential = AwsCredential(provider.username, provider.password, provider.region, "ses")
    headers = {"Content-Type": "application/json"} if body else {}
    return signed_request(ApiRequest(method, url, headers, body), credential, now)
