"""Postmark: a letter's parts in, `/email` and, for many at once, `/email/batch` out. It has no idempotency.

In a batch each message has an answer of its own, so what is wrong with one leaves the others alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.admin import Provider
from pipeline.dispatch.transports import message_parts
from pipeline.dispatch.transports.api_base import Call, Reply, answered, as_json, base_url, by_status, option, words
from pipeline.dispatch.transports.base import Answer, Mail, Meaning
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import Millis

SMTPUTF8: bool = False
MIME: bool = False
REPEATS: bool = False
OPTIONS: tuple[str, ...] = ("message_stream",)
BATCH: int = 500
BATCH_BYTES: int = 50_000_000
MOST_BYTES: Final = 10_000_000
MOST_TEXT: Final = 5_000_000

_URL: Final = "https://api.postmarkapp.com"
_STREAM: Final = "outbound"
_OURS_KEPT: Final = {"Name": "X-PM-KeepID", "Value": "true"}
"""Without it Postmark puts a Message-ID of its own in the place of ours."""

ERRORS: Final[Mapping[int, Meaning]] = {
    0: Meaning.TAKEN,
    100: Meaning.LATER,  # maintenance
    429: Meaning.LATER,
    300: Meaning.REFUSED,  # invalid email request
    402: Meaning.REFUSED,
    403: Meaning.REFUSED,
    409: Meaning.REFUSED,
    410: Meaning.REFUSED,
    411: Meaning.REFUSED,  # forbidden attachment type
    406: Meaning.DROPPED,  # inactive recipient: bounced or complained before
    10: Meaning.MISCONFIGURED,  # token
    400: Meaning.MISCONFIGURED,  # no such sender signature
    401: Meaning.MISCONFIGURED,  # not confirmed
    405: Meaning.MISCONFIGURED,  # credits are spent
    412: Meaning.MISCONFIGURED,  # the account is pending
    413: Meaning.MISCONFIGURED,  # the account may not send
    1235: Meaning.MISCONFIGURED,  # no such stream
    1236: Meaning.MISCONFIGURED,  # a stream that doesn't send
}
"""By its `ErrorCode`."""


def missing(provider: Provider) -> str:
    """What the row lacks."""
    return "" if provider.password else "a server token"


def call(provider: Provider, mail: Mail, _now: Millis) -> Call:
    """`/email`."""
    made = as_json(_url(provider, "/email"), _authorized(provider), _message(provider, mail))
    message_parts.check_size(len(made.body), MOST_BYTES, "Postmark")
    return made


def answer(reply: Reply) -> Answer:
    """Its message id, or its error's number and words."""
    return _answer(reply, reply.json())


def fits(mail: Mail) -> bool:
    """Every message does."""
    return bool(mail.letter)


def batch(provider: Provider, mails: Sequence[Mail]) -> Call:
    """`/email/batch`."""
    return as_json(_url(provider, "/email/batch"), _authorized(provider), [_message(provider, mail) for mail in mails])


def answers(reply: Reply, count: int) -> list[Answer] | None:
    """One for each, in order."""
    found = reply.json()
    if isinstance(found, list) and len(found) == count:
        return [_answer(reply, one) for one in found]
    whole = answer(reply)
    if whole.meaning is Meaning.REFUSED:
        return None
    if whole.meaning is Meaning.TAKEN:
        whole = answered(reply, Meaning.UNKNOWN, "its answer doesn't say what became of each message")
    return [whole] * count


def check(provider: Provider, _now: Millis) -> Call:
    """The server that the token is of."""
    return Call("GET", _url(provider, "/server"), {**_authorized(provider), "Accept": "application/json"})


def checked(reply: Reply) -> str:
    """What is wrong."""
    return "" if reply.status == 200 else answer(reply).text


def _message(provider: Provider, mail: Mail) -> dict[str, Any]:
    letter = mail.letter
    bodies = dict(message_parts.texts(letter, amp=False))
    for body in bodies.values():
        message_parts.check_size(len(body.encode()), MOST_TEXT, "Postmark (of one body)")
    wish: dict[str, Any] = {
        "From": message_parts.mailbox(letter.sender),
        # The recipient alone: whoever is named here gets the mail, and each recipient has one of their own.
        "To": message_parts.mailbox(letter.recipient),
        "Subject": message_parts.subject(letter),
        "Headers": [{"Name": n, "Value": v} for n, v in message_parts.headers(letter).items()] + [_OURS_KEPT],
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


def _answer(reply: Reply, said: Any) -> Answer:
    if not isinstance(said, dict) or not isinstance(said.get("ErrorCode"), int):
        # Whoever says nothing of an ErrorCode isn't Postmark's API but something before it.
        return answered(reply, _of_status(reply.status), words(reply))
    code = said["ErrorCode"]
    meaning = ERRORS.get(code) or _of_status(reply.status)
    if code == 0 and reply.status >= 300:
        meaning = _of_status(reply.status)
    text = str(said.get("Message", ""))
    return answered(reply, meaning, text if code == 0 else f"{code} {text}", str(said.get("MessageID", "")))


def _of_status(status: int) -> Meaning:
    found = by_status(status)
    return Meaning.UNKNOWN if found is Meaning.TAKEN else found


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _URL) + path


def _authorized(provider: Provider) -> dict[str, str]:
    return {"X-Postmark-Server-Token": provider.password}
