"""Postmark: a letter's parts in, `/email` and, for many at once, `/email/batch` out. It has no idempotency.

In a batch each message has an answer of its own, so what is wrong with one leaves the others alone.
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
from pipeline.webhooks.base import EMAIL_ID_KEY
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
_STREAM: Final = "outbound"
_KEEP_MESSAGE_ID: Final = {"Name": "X-PM-KeepID", "Value": "true"}
"""Without it Postmark puts a Message-ID of its own in the place of ours."""

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
"""By its `ErrorCode`."""


def missing_settings(provider: Provider) -> str:
    """What the row lacks."""
    return "" if provider.password else "a server token"


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
    """`/email`."""
    made = json_request(_url(provider, "/email"), _authorized(provider), _message(provider, mail))
    message_parts.check_size(len(made.body), MAX_MESSAGE_BYTES, "Postmark")
    return made


def message_result(reply: ApiResponse) -> SendResult:
    """Its message id, or its error's number and words."""
    return _answer(reply, reply.json())


def fits_batch(mail: OutgoingEmail) -> bool:
    """Every message does."""
    return bool(mail.letter)


def batch_request(provider: Provider, mails: Sequence[OutgoingEmail]) -> ApiRequest:
    """`/email/batch`."""
    return json_request(
        _url(provider, "/email/batch"), _authorized(provider), [_message(provider, mail) for mail in mails]
    )


def batch_results(reply: ApiResponse, count: int) -> list[SendResult] | None:
    """One for each, in order."""
    found = reply.json()
    if isinstance(found, list) and len(found) == count:
        return [_answer(reply, one) for one in found]
    whole = message_result(reply)
    if whole.outcome is SendOutcome.REFUSED:
        return None
    if whole.outcome is SendOutcome.TAKEN:
        whole = send_result(reply, SendOutcome.UNKNOWN, "its answer doesn't say what became of each message")
    return [whole] * count


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """The server that the token is of."""
    return ApiRequest("GET", _url(provider, "/server"), {**_authorized(provider), "Accept": "application/json"})


def credential_problem(reply: ApiResponse) -> str:
    """What is wrong."""
    return "" if reply.status == 200 else message_result(reply).text


def _message(provider: Provider, mail: OutgoingEmail) -> dict[str, Any]:
    letter = mail.letter
    bodies = dict(message_parts.bodies(letter, amp=False))
    for body in bodies.values():
        message_parts.check_size(len(body.encode()), MAX_BODY_BYTES, "Postmark (of one body)")
    wish: dict[str, Any] = {
        "From": message_parts.mailbox(letter.sender),
        # The recipient alone: whoever is named here gets the mail, and each recipient has one of their own.
        "To": message_parts.mailbox(letter.recipient),
        "Subject": message_parts.subject(letter),
        "Headers": [{"Name": n, "Value": v} for n, v in message_parts.headers(letter).items()] + [_KEEP_MESSAGE_ID],
        "Metadata": {EMAIL_ID_KEY: letter.request.email_id},
        "MessageStream": option(provider, "message_stream") or _STREAM,
        # Ours are in the message already; theirs would rewrite it.
        "TrackOpens": False,
        "TrackLinks": "None",
    }
    names = {"text/plain": "TextBody", "text/html": "HtmlBody"}
    wish |= {names[kind]: body for kind, body in bodies.items()}
    if answer_to := message_parts.reply_to(letter):
        wish["ReplyTo"] = ", ".join(answer_to)
    if files := message_parts.attachments(letter):
        wish["Attachments"] = [
            {"Name": file["name"], "ContentType": file["type"], "Content": file["data"]} for file in files
        ]
    return wish


def _answer(reply: ApiResponse, said: Any) -> SendResult:
    if not isinstance(said, dict) or not isinstance(said.get("ErrorCode"), int):
        # Whoever says nothing of an ErrorCode isn't Postmark's API but something before it.
        return send_result(reply, _of_status(reply.status), body_excerpt(reply))
    code = said["ErrorCode"]
    meaning = ERROR_OUTCOMES.get(code) or _of_status(reply.status)
    if code == 0 and reply.status >= 300:
        meaning = _of_status(reply.status)
    text = str(said.get("Message", ""))
    return send_result(reply, meaning, text if code == 0 else f"{code} {text}", str(said.get("MessageID", "")))


def _of_status(status: int) -> SendOutcome:
    found = outcome_of_status(status)
    return SendOutcome.UNKNOWN if found is SendOutcome.TAKEN else found


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _URL) + path


def _authorized(provider: Provider) -> dict[str, str]:
    return {"X-Postmark-Server-Token": provider.password}
