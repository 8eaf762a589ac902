"""The API of Resend: the parts of a message, sent with `/emails`, or with `/emails/batch` for several at once.

Each request has an `Idempotency-Key`. The key of a single email is its id: within a day it is sent once, however often
it is tried. The key of a batch is a hash of its email ids, so that the same batch can be repeated when its reply was
lost. After a crash the emails of a batch are sent one by one, with their own keys.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.admin import Provider
from pipeline.dispatch.transports import message_parts
from pipeline.dispatch.transports.api_base import (
    ApiRequest,
    ApiResponse,
    base_url,
    body_excerpt,
    json_request,
    outcome_of_status,
    send_result,
)
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from topics.record import Millis

SUPPORTS_SMTPUTF8: bool = False
TAKES_MIME: bool = False
IS_IDEMPOTENT: bool = True
OPTION_NAMES: tuple[str, ...] = ()
BATCH_MAX_MAILS: int = 100
BATCH_MAX_BYTES: int = 10_000_000
MAX_MESSAGE_BYTES: Final = 40_000_000

_URL: Final = "https://api.resend.com"

ERROR_OUTCOMES: Final[Mapping[str, SendOutcome]] = {
    "rate_limit_exceeded": SendOutcome.LATER,
    "daily_quota_exceeded": SendOutcome.LATER,
    "monthly_quota_exceeded": SendOutcome.LATER,
    "invalid_idempotency_key": SendOutcome.REFUSED,
    "invalid_attachment": SendOutcome.REFUSED,
    "invalid_parameter": SendOutcome.REFUSED,
    "missing_required_field": SendOutcome.REFUSED,
    "security_error": SendOutcome.REFUSED,
    "invalid_from_address": SendOutcome.MISCONFIGURED,
    "invalid_access": SendOutcome.MISCONFIGURED,
    "invalid_region": SendOutcome.MISCONFIGURED,
    "missing_api_key": SendOutcome.MISCONFIGURED,
    "restricted_api_key": SendOutcome.MISCONFIGURED,
    "invalid_api_key": SendOutcome.MISCONFIGURED,
    "not_found": SendOutcome.MISCONFIGURED,
    "method_not_allowed": SendOutcome.MISCONFIGURED,
    # An earlier attempt with this key was accepted; the content differs because the brand's settings changed since.
    "invalid_idempotent_request": SendOutcome.TAKEN,
    # Another request with this key is in progress, and only its reply tells the outcome.
    "concurrent_idempotent_requests": SendOutcome.UNKNOWN,
    "application_error": SendOutcome.UNKNOWN,
    "internal_server_error": SendOutcome.UNKNOWN,
}
"""Outcomes by the name of the error.

`validation_error` is absent because its status tells more: 400 or 422 is about the message, 403 about the account.
"""


def missing_settings(provider: Provider) -> str:
    """Return what the provider's row lacks."""
    return "" if provider.password else "an API key"


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
    """Return an `/emails` request."""
    request = json_request(_url(provider, "/emails"), _headers(provider, mail.message.request.email_id), _payload(mail))
    message_parts.check_size(len(request.body), MAX_MESSAGE_BYTES, "Resend")
    return request


def message_result(reply: ApiResponse) -> SendResult:
    """Return the result of a send, with Resend's message id, or the name and text of its error."""
    fields = reply.fields()
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, "accepted", str(fields.get("id", "")))
    name = str(fields.get("name", ""))
    outcome = ERROR_OUTCOMES.get(name) or outcome_of_status(reply.status)
    return send_result(reply, outcome, f"{name} {fields.get('message') or body_excerpt(reply)}".strip())


def fits_batch(mail: OutgoingEmail) -> bool:
    """Return whether the email has no attachments, which Resend's batches do not take."""
    return not mail.message.content.attachments


def batch_request(provider: Provider, mails: Sequence[OutgoingEmail]) -> ApiRequest:
    """Return an `/emails/batch` request, in the mode in which an error in one message does not affect the others."""
    ids = hashlib.sha256(b"".join(mail.message.request.email_id.encode() for mail in mails)).hexdigest()
    headers = {**_headers(provider, f"batch-{ids}"), "x-batch-validation": "permissive"}
    return json_request(_url(provider, "/emails/batch"), headers, [_payload(mail) for mail in mails])


def batch_results(reply: ApiResponse, count: int) -> list[SendResult] | None:
    """Return the result of each message, in order; None if the batch was refused as a whole.

    The reply has the ids of the accepted messages in order, and the index of each refused one.
    """
    whole = message_result(reply)
    if whole.outcome is SendOutcome.REFUSED:
        return None
    if not 200 <= reply.status < 300:
        return [whole] * count
    refused = {error["index"]: str(error.get("message", "")) for error in _dicts(reply, "errors") if "index" in error}
    taken = iter(_dicts(reply, "data"))
    if len(refused) + len(_dicts(reply, "data")) != count:
        unclear = "its answer doesn't say what became of each message"
        return [send_result(reply, SendOutcome.UNKNOWN, unclear)] * count
    return [
        send_result(reply, SendOutcome.REFUSED, refused[index])
        if index in refused
        else send_result(reply, SendOutcome.TAKEN, "accepted", str(next(taken, {}).get("id", "")))
        for index in range(count)
    ]


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """Return a request for the list of domains; a key that may only send gets an error that says so."""
    return ApiRequest("GET", _url(provider, "/domains"), _auth_headers(provider))


def credential_problem(reply: ApiResponse) -> str:
    """Return what is wrong with the key."""
    works = reply.status == 200 or reply.fields().get("name") == "restricted_api_key"
    return "" if works else message_result(reply).text


def _payload(mail: OutgoingEmail) -> dict[str, Any]:
    message = mail.message
    names = {"text/plain": "text", "text/html": "html"}
    payload: dict[str, Any] = {
        "from": message_parts.format_mailbox(message.sender),
        # Only the recipient: Resend sends to every address named here, and each recipient has an email of their own.
        "to": [message_parts.format_mailbox(message.recipient)],
        "subject": message_parts.subject(message),
        "headers": message_parts.headers(message),
        "tags": [{"name": name, "value": value} for name, value in message_parts.echo(message).items()],
    }
    payload |= {names[kind]: body for kind, body in message_parts.bodies(message, amp=False)}
    if reply_to := message_parts.reply_to(message):
        payload["reply_to"] = reply_to
    if files := message_parts.attachments(message):
        payload["attachments"] = [
            {"filename": file["name"], "content_type": file["type"], "content": file["data"]} for file in files
        ]
    return payload


def _dicts(reply: ApiResponse, name: str) -> list[dict[str, Any]]:
    values = reply.fields().get(name)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _URL) + path


def _headers(provider: Provider, key: str) -> dict[str, str]:
    return {**_auth_headers(provider), "Idempotency-Key": key}


def _auth_headers(provider: Provider) -> dict[str, str]:
    # Resend refuses requests without a User-Agent.
    return {"Authorization": f"Bearer {provider.password}", "User-Agent": "mailfold", "Accept": "application/json"}
