"""The API of Postmark: the parts of a message, sent with `/email`, or with `/email/batch` for several at once.

It has no idempotency. In a batch each message gets its own result, so an error in one does not affect the others.
"""

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
    option,
    outcome_of_status,
    send_result,
)
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from topics.record import Millis

SUPPORTS_SMTPUTF8: bool = False
TAKES_MIME: bool = False
IS_IDEMPOTENT: bool = False
OPTION_NAMES: tuple[str, ...] = ("message_stream",)
BATCH_MAX_MAILS: int = 500
BATCH_MAX_BYTES: int = 50_000_000
MAX_MESSAGE_BYTES: Final = 10_000_000
MAX_BODY_BYTES: Final = 5_000_000

_URL: Final = "https://api.postmarkapp.com"
_DEFAULT_STREAM: Final = "outbound"
_KEEP_MESSAGE_ID: Final = {"Name": "X-PM-KeepID", "Value": "true"}
"""Header without which Postmark replaces our Message-ID by its own."""

ERROR_OUTCOMES: Final[Mapping[int, SendOutcome]] = {
    0: SendOutcome.TAKEN,
    100: SendOutcome.LATER,  # maintenance
    429: SendOutcome.LATER,
    300: SendOutcome.REFUSED,  # invalid email request
    402: SendOutcome.REFUSED,
    403: SendOutcome.REFUSED,
    409: SendOutcome.REFUSED,
    410: SendOutcome.REFUSED,
    411: SendOutcome.REFUSED,  # forbidden attachment type
    406: SendOutcome.DROPPED,  # inactive recipient: bounced or complained before
    10: SendOutcome.MISCONFIGURED,  # token
    400: SendOutcome.MISCONFIGURED,  # no such sender signature
    401: SendOutcome.MISCONFIGURED,  # not confirmed
    405: SendOutcome.MISCONFIGURED,  # credits are spent
    412: SendOutcome.MISCONFIGURED,  # the account is pending
    413: SendOutcome.MISCONFIGURED,  # the account may not send
    1235: SendOutcome.MISCONFIGURED,  # no such stream
    1236: SendOutcome.MISCONFIGURED,  # a stream that doesn't send
}
"""Outcomes of Postmark's `ErrorCode`."""


def missing_settings(provider: Provider) -> str:
    """Return what the provider's row lacks."""
    return "" if provider.password else "a server token"


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
    """Return an `/email` request."""
    request = json_request(_url(provider, "/email"), _auth_headers(provider), _payload(provider, mail))
    message_parts.check_size(len(request.body), MAX_MESSAGE_BYTES, "Postmark")
    return request


def message_result(reply: ApiResponse) -> SendResult:
    """Return the result of a send, with Postmark's message id, or the number and text of its error."""
    return _result(reply, reply.json())


def fits_batch(mail: OutgoingEmail) -> bool:
    """Return True: Postmark's batches take every message."""
    return bool(mail.message)


def batch_request(provider: Provider, mails: Sequence[OutgoingEmail]) -> ApiRequest:
    """Return an `/email/batch` request."""
    return json_request(
        _url(provider, "/email/batch"), _auth_headers(provider), [_payload(provider, mail) for mail in mails]
    )


def batch_results(reply: ApiResponse, count: int) -> list[SendResult] | None:
    """Return the result of each message, in order; None if the batch was refused as a whole."""
    results = reply.json()
    if isinstance(results, list) and len(results) == count:
        return [_result(reply, each) for each in results]
    whole = message_result(reply)
    if whole.outcome is SendOutcome.REFUSED:
        return None
    if whole.outcome is SendOutcome.TAKEN:
        whole = send_result(reply, SendOutcome.UNKNOWN, "its answer doesn't say what became of each message")
    return [whole] * count


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """Return a request for the server to which the token belongs."""
    return ApiRequest("GET", _url(provider, "/server"), {**_auth_headers(provider), "Accept": "application/json"})


def credential_problem(reply: ApiResponse) -> str:
    """Return what is wrong with the token."""
    return "" if reply.status == 200 else message_result(reply).text


def _payload(provider: Provider, mail: OutgoingEmail) -> dict[str, Any]:
    message = mail.message
    bodies = dict(message_parts.bodies(message, amp=False))
    for body in bodies.values():
        message_parts.check_size(len(body.encode()), MAX_BODY_BYTES, "Postmark (of one body)")
    payload: dict[str, Any] = {
        "From": message_parts.format_mailbox(message.sender),
        # Only the recipient: Postmark sends to every address named here, and each recipient has an email of their own.
        "To": message_parts.format_mailbox(message.recipient),
        "Subject": message_parts.subject(message),
        "Headers": [{"Name": n, "Value": v} for n, v in message_parts.headers(message).items()] + [_KEEP_MESSAGE_ID],
        "Metadata": message_parts.echo(message),
        "MessageStream": option(provider, "message_stream") or _DEFAULT_STREAM,
        # Our own tracking links are in the message already; Postmark's would rewrite them.
        "TrackOpens": False,
        "TrackLinks": "None",
    }
    names = {"text/plain": "TextBody", "text/html": "HtmlBody"}
    payload |= {names[kind]: body for kind, body in bodies.items()}
    if reply_to := message_parts.reply_to(message):
        payload["ReplyTo"] = ", ".join(reply_to)
    if files := message_parts.attachments(message):
        payload["Attachments"] = [
            {"Name": file["name"], "ContentType": file["type"], "Content": file["data"]} for file in files
        ]
    return payload


def _result(reply: ApiResponse, answer: Any) -> SendResult:
    if not isinstance(answer, dict) or not isinstance(answer.get("ErrorCode"), int):
        # A reply without an ErrorCode does not come from Postmark's API but from a proxy in front of it.
        return send_result(reply, _outcome_of_status(reply.status), body_excerpt(reply))
    code = answer["ErrorCode"]
    outcome = ERROR_OUTCOMES.get(code) or _outcome_of_status(reply.status)
    if code == 0 and reply.status >= 300:
        outcome = _outcome_of_status(reply.status)
    text = str(answer.get("Message", ""))
    return send_result(reply, outcome, text if code == 0 else f"{code} {text}", str(answer.get("MessageID", "")))


def _outcome_of_status(status: int) -> SendOutcome:
    outcome = outcome_of_status(status)
    return SendOutcome.UNKNOWN if outcome is SendOutcome.TAKEN else outcome


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _URL) + path


def _auth_headers(provider: Provider) -> dict[str, str]:
    return {"X-Postmark-Server-Token": provider.password}
