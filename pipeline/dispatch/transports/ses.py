"""Amazon SES, API v2: our own MIME in, `SendEmail` out. SES sets its own Message-ID and Date, and keeps the rest.

Its call for many (`SendBulkEmail`) takes one template, so independent messages don't fit into it; it has no
idempotency.
"""

import base64
from collections.abc import Mapping
from typing import Final

import msgspec

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import Call, Reply, answered, base_url, by_status, option, words
from pipeline.dispatch.transports.base import Answer, Mail, Meaning
from pipeline.dispatch.transports.message_parts import check_size
from pipeline.dispatch.transports.sigv4 import Credential, signed
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import Millis

SMTPUTF8: bool = False
MIME: bool = True
REPEATS: bool = False
OPTIONS: tuple[str, ...] = ("configuration_set",)
MOST_BYTES: Final = 40_000_000

_SEND: Final = "/v2/email/outbound-emails"
_ACCOUNT: Final = "/v2/email/account"

ERRORS: Final[Mapping[str, Meaning]] = {
    "MessageRejected": Meaning.REFUSED,
    "BadRequestException": Meaning.REFUSED,
    "ValidationException": Meaning.REFUSED,
    "TooManyRequestsException": Meaning.LATER,
    "LimitExceededException": Meaning.LATER,
    "ThrottlingException": Meaning.LATER,
    "Throttling": Meaning.LATER,
    "ServiceUnavailable": Meaning.LATER,
    "ServiceUnavailableException": Meaning.LATER,
    "InternalFailure": Meaning.UNKNOWN,
    "InternalServiceErrorException": Meaning.UNKNOWN,
    "AccountSuspendedException": Meaning.MISCONFIGURED,
    "SendingPausedException": Meaning.MISCONFIGURED,
    "MailFromDomainNotVerifiedException": Meaning.MISCONFIGURED,
    "NotFoundException": Meaning.MISCONFIGURED,
    # A clock that is wrong: as said for the whole of us, not for this email.
    "RequestExpired": Meaning.MISCONFIGURED,
    "InvalidSignatureException": Meaning.MISCONFIGURED,
    "IncompleteSignature": Meaning.MISCONFIGURED,
}
"""By the exception's name; whatever else is 4xx (credentials, permissions) is about us."""


def missing(provider: Provider) -> str:
    """What the row lacks."""
    wanted = {"a region": provider.region, "an access key id": provider.username, "a secret key": provider.password}
    return ", ".join(name for name, value in wanted.items() if not value)


def call(provider: Provider, mail: Mail, now: Millis) -> Call:
    """`SendEmail` with the raw message."""
    check_size(len(mail.message), MOST_BYTES, "Amazon SES")
    wish = {
        "Content": {"Raw": {"Data": base64.b64encode(mail.message).decode()}},
        # Whom it goes to; the message's own headers may name others beside.
        "Destination": {"ToAddresses": [mail.envelope.recipient]},
        "EmailTags": [{"Name": EMAIL_ID_KEY, "Value": mail.letter.request.email_id}],
    }
    if name := option(provider, "configuration_set"):
        wish["ConfigurationSetName"] = name
    return _signed(provider, "POST", _SEND, msgspec.json.encode(wish), now)


def answer(reply: Reply) -> Answer:
    """Its message id, or its exception's name and words."""
    fields = reply.fields()
    if 200 <= reply.status < 300:
        return answered(reply, Meaning.TAKEN, "accepted", str(fields.get("MessageId", "")))
    name = _exception(reply)
    said = str(fields.get("message") or fields.get("Message") or words(reply))
    # An identity that is not verified is told as a rejected message; `answered` knows it by its words.
    return answered(reply, ERRORS.get(name) or _of_status(reply.status), f"{name} {said}".strip())


def check(provider: Provider, now: Millis) -> Call:
    """`GetAccount`."""
    return _signed(provider, "GET", _ACCOUNT, b"", now)


def checked(reply: Reply) -> str:
    """What is wrong; `GetAccount` also says when sending is switched off."""
    if reply.status != 200:
        return answer(reply).text
    return "" if reply.fields().get("SendingEnabled", True) else "sending is switched off for this account"


def _of_status(status: int) -> Meaning:
    """A 400 or 403 whose name isn't in the table is about the signature, the key or its permissions."""
    return Meaning.MISCONFIGURED if status in (400, 403) else by_status(status)


def _exception(reply: Reply) -> str:
    """`x-amzn-ErrorType: Name:http://…`, or the body's `__type`, `prefix#Name`."""
    said = reply.headers.get("x-amzn-errortype") or str(reply.fields().get("__type", ""))
    return said.partition(":")[0].rpartition("#")[2]


def _signed(provider: Provider, method: str, path: str, body: bytes, now: Millis) -> Call:
    top = "amazonaws.com.cn" if provider.region.startswith("cn-") else "amazonaws.com"
    url = base_url(provider, f"https://email.{provider.region}.{top}") + path
    credential = Credential(provider.username, provider.password, provider.region, "ses")
    headers = {"Content-Type": "application/json"} if body else {}
    return signed(Call(method, url, headers, body), credential, now)
