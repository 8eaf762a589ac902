"""Amazon SES, API v2: our own MIME in, `SendEmail` out. SES sets its own Message-ID and Date, and keeps the rest.

Its call for many (`SendBulkEmail`) takes one template, so independent messages don't fit into it; it has no
idempotency.
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
from pipeline.dispatch.transports.message_parts import check_size
from pipeline.dispatch.transports.sigv4 import AwsCredential, signed_request
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import Millis

SUPPORTS_SMTPUTF8: bool = False
TAKES_MIME: bool = True
IS_IDEMPOTENT: bool = False
OPTION_NAMES: tuple[str, ...] = ("configuration_set",)
MAX_MESSAGE_BYTES: Final = 40_000_000

_SEND: Final = "/v2/email/outbound-emails"
_ACCOUNT: Final = "/v2/email/account"

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
    # A clock that is wrong: as said for the whole of us, not for this email.
    "RequestExpired": SendOutcome.MISCONFIGURED,
    "InvalidSignatureException": SendOutcome.MISCONFIGURED,
    "IncompleteSignature": SendOutcome.MISCONFIGURED,
}
"""By the exception's name; whatever else is 4xx (credentials, permissions) is about us."""


def missing_settings(provider: Provider) -> str:
    """What the row lacks."""
    wanted = {"a region": provider.region, "an access key id": provider.username, "a secret key": provider.password}
    return ", ".join(name for name, value in wanted.items() if not value)


def message_request(provider: Provider, mail: OutgoingEmail, now: Millis) -> ApiRequest:
    """`SendEmail` with the raw message."""
    check_size(len(mail.message), MAX_MESSAGE_BYTES, "Amazon SES")
    wish = {
        "Content": {"Raw": {"Data": base64.b64encode(mail.message).decode()}},
        # Whom it goes to; the message's own headers may name others beside.
        "Destination": {"ToAddresses": [mail.envelope.recipient]},
        "EmailTags": [{"Name": EMAIL_ID_KEY, "Value": mail.letter.request.email_id}],
    }
    if name := option(provider, "configuration_set"):
        wish["ConfigurationSetName"] = name
    return _signed(provider, "POST", _SEND, msgspec.json.encode(wish), now)


def message_result(reply: ApiResponse) -> SendResult:
    """Its message id, or its exception's name and words."""
    fields = reply.fields()
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, "accepted", str(fields.get("MessageId", "")))
    name = _exception(reply)
    said = str(fields.get("message") or fields.get("Message") or body_excerpt(reply))
    # An identity that is not verified is told as a rejected message; `answered` knows it by its words.
    return send_result(reply, ERROR_OUTCOMES.get(name) or _of_status(reply.status), f"{name} {said}".strip())


def check_request(provider: Provider, now: Millis) -> ApiRequest:
    """`GetAccount`."""
    return _signed(provider, "GET", _ACCOUNT, b"", now)


def credential_problem(reply: ApiResponse) -> str:
    """What is wrong; `GetAccount` also says when sending is switched off."""
    if reply.status != 200:
        return message_result(reply).text
    return "" if reply.fields().get("SendingEnabled", True) else "sending is switched off for this account"


def _of_status(status: int) -> SendOutcome:
    """A 400 or 403 whose name isn't in the table is about the signature, the key or its permissions."""
    return SendOutcome.MISCONFIGURED if status in (400, 403) else outcome_of_status(status)


def _exception(reply: ApiResponse) -> str:
    """`x-amzn-ErrorType: Name:http://…`, or the body's `__type`, `prefix#Name`."""
    said = reply.headers.get("x-amzn-errortype") or str(reply.fields().get("__type", ""))
    return said.partition(":")[0].rpartition("#")[2]


def _signed(provider: Provider, method: str, path: str, body: bytes, now: Millis) -> ApiRequest:
    top = "amazonaws.com.cn" if provider.region.startswith("cn-") else "amazonaws.com"
    url = base_url(provider, f"https://email.{provider.region}.{top}") + path
    credential = AwsCredential(provider.username, provider.password, provider.region, "ses")
    headers = {"Content-Type": "application/json"} if body else {}
    return signed_request(ApiRequest(method, url, headers, body), credential, now)
