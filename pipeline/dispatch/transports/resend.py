"""Resend: a letter's parts in, `/emails` and, for many at once, `/emails/batch` out, each with an `Idempotency-Key`.

A mail alone has its email's id as the key: however often it is tried within a day, it is sent once. A batch's key is
made of what is in it, so that the same batch can be asked for again when its answer was lost; after a crash its mails
go alone, under keys of their own.
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
from pipeline.webhooks.base import EMAIL_ID_KEY
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
    # An attempt of ours with this key was taken, when the brand's settings were others.
    "invalid_idempotent_request": SendOutcome.TAKEN,
    # Another one with this key is under way: its answer is the one that counts.
    "concurrent_idempotent_requests": SendOutcome.UNKNOWN,
    "application_error": SendOutcome.UNKNOWN,
    "internal_server_error": SendOutcome.UNKNOWN,
}
"""By the error's name; `validation_error` is about the message with a 400 or 422, and about us with a 403."""


def missing_settings(provider: Provider) -> str:
    """What the row lacks."""
    return "" if provider.password else "an API key"


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
    """`/emails`."""
    made = json_request(_url(provider, "/emails"), _headers(provider, mail.letter.request.email_id), _message(mail))
    message_parts.check_size(len(made.body), MAX_MESSAGE_BYTES, "Resend")
    return made


def message_result(reply: ApiResponse) -> SendResult:
    """Its message id, or its error's name and words."""
    fields = reply.fields()
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, "accepted", str(fields.get("id", "")))
    name = str(fields.get("name", ""))
    meaning = ERROR_OUTCOMES.get(name) or outcome_of_status(reply.status)
    return send_result(reply, meaning, f"{name} {fields.get('message') or body_excerpt(reply)}".strip())


def fits_batch(mail: OutgoingEmail) -> bool:
    """A batch takes no attachments."""
    return not mail.letter.content.attachments


def batch_request(provider: Provider, mails: Sequence[OutgoingEmail]) -> ApiRequest:
    """`/emails/batch`; what is wrong with one leaves the others alone."""
    ids = hashlib.sha256(b"".join(mail.letter.request.email_id.encode() for mail in mails)).hexdigest()
    headers = {**_headers(provider, f"batch-{ids}"), "x-batch-validation": "permissive"}
    return json_request(_url(provider, "/emails/batch"), headers, [_message(mail) for mail in mails])


def batch_results(reply: ApiResponse, count: int) -> list[SendResult] | None:
    """The ids in order, with gaps where an error names a place."""
    whole = message_result(reply)
    if whole.outcome is SendOutcome.REFUSED:
        return None
    if not 200 <= reply.status < 300:
        return [whole] * count
    refused = {error["index"]: str(error.get("message", "")) for error in _list(reply, "errors") if "index" in error}
    taken = iter(_list(reply, "data"))
    if len(refused) + len(_list(reply, "data")) != count:
        unclear = "its answer doesn't say what became of each message"
        return [send_result(reply, SendOutcome.UNKNOWN, unclear)] * count
    return [
        send_result(reply, SendOutcome.REFUSED, refused[place])
        if place in refused
        else send_result(reply, SendOutcome.TAKEN, "accepted", str(next(taken, {}).get("id", "")))
        for place in range(count)
    ]


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """The domains; a key that may only send answers, too, and says so."""
    return ApiRequest("GET", _url(provider, "/domains"), _authorized(provider))


def credential_problem(reply: ApiResponse) -> str:
    """What is wrong."""
    works = reply.status == 200 or reply.fields().get("name") == "restricted_api_key"
    return "" if works else message_result(reply).text


def _message(mail: OutgoingEmail) -> dict[str, Any]:
    letter = mail.letter
    names = {"text/plain": "text", "text/html": "html"}
    wish: dict[str, Any] = {
        "from": message_parts.mailbox(letter.sender),
        # The recipient alone: whoever is named here gets the mail, and each recipient has one of their own.
        "to": [message_parts.mailbox(letter.recipient)],
        "subject": message_parts.subject(letter),
        "headers": message_parts.headers(letter),
        "tags": [{"name": EMAIL_ID_KEY, "value": letter.request.email_id}],
    }
    wish |= {names[kind]: body for kind, body in message_parts.bodies(letter, amp=False)}
    if answer_to := message_parts.reply_to(letter):
        wish["reply_to"] = answer_to
    if files := message_parts.attachments(letter):
        wish["attachments"] = [
            {"filename": file["name"], "content_type": file["type"], "content": file["data"]} for file in files
        ]
    return wish


def _list(reply: ApiResponse, name: str) -> list[dict[str, Any]]:
    found = reply.fields().get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _URL) + path


def _headers(provider: Provider, key: str) -> dict[str, str]:
    return {**_authorized(provider), "Idempotency-Key": key}


def _authorized(provider: Provider) -> dict[str, str]:
    # It turns away whoever doesn't say who asks.
    return {"Authorization": f"Bearer {provider.password}", "User-Agent": "mailfold", "Accept": "application/json"}
