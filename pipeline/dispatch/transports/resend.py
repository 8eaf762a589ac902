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
from pipeline.dispatch.transports.api_base import Call, Reply, answered, as_json, base_url, by_status, words
from pipeline.dispatch.transports.base import Answer, Mail, Meaning
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import Millis

SMTPUTF8: bool = False
MIME: bool = False
REPEATS: bool = True
OPTIONS: tuple[str, ...] = ()
BATCH: int = 100
BATCH_BYTES: int = 10_000_000
MOST_BYTES: Final = 40_000_000

_URL: Final = "https://api.resend.com"

ERRORS: Final[Mapping[str, Meaning]] = {
    "rate_limit_exceeded": Meaning.LATER,
    "daily_quota_exceeded": Meaning.LATER,
    "monthly_quota_exceeded": Meaning.LATER,
    "invalid_idempotency_key": Meaning.REFUSED,
    "invalid_attachment": Meaning.REFUSED,
    "invalid_parameter": Meaning.REFUSED,
    "missing_required_field": Meaning.REFUSED,
    "security_error": Meaning.REFUSED,
    "invalid_from_address": Meaning.MISCONFIGURED,
    "invalid_access": Meaning.MISCONFIGURED,
    "invalid_region": Meaning.MISCONFIGURED,
    "missing_api_key": Meaning.MISCONFIGURED,
    "restricted_api_key": Meaning.MISCONFIGURED,
    "invalid_api_key": Meaning.MISCONFIGURED,
    "not_found": Meaning.MISCONFIGURED,
    "method_not_allowed": Meaning.MISCONFIGURED,
    # An attempt of ours with this key was taken, when the brand's settings were others.
    "invalid_idempotent_request": Meaning.TAKEN,
    # Another one with this key is under way: its answer is the one that counts.
    "concurrent_idempotent_requests": Meaning.UNKNOWN,
    "application_error": Meaning.UNKNOWN,
    "internal_server_error": Meaning.UNKNOWN,
}
"""By the error's name; `validation_error` is about the message with a 400 or 422, and about us with a 403."""


def missing(provider: Provider) -> str:
    """What the row lacks."""
    return "" if provider.password else "an API key"


def call(provider: Provider, mail: Mail, _now: Millis) -> Call:
    """`/emails`."""
    made = as_json(_url(provider, "/emails"), _headers(provider, mail.letter.request.email_id), _message(mail))
    message_parts.check_size(len(made.body), MOST_BYTES, "Resend")
    return made


def answer(reply: Reply) -> Answer:
    """Its message id, or its error's name and words."""
    fields = reply.fields()
    if 200 <= reply.status < 300:
        return answered(reply, Meaning.TAKEN, "accepted", str(fields.get("id", "")))
    name = str(fields.get("name", ""))
    meaning = ERRORS.get(name) or by_status(reply.status)
    return answered(reply, meaning, f"{name} {fields.get('message') or words(reply)}".strip())


def fits(mail: Mail) -> bool:
    """A batch takes no attachments."""
    return not mail.letter.content.attachments


def batch(provider: Provider, mails: Sequence[Mail]) -> Call:
    """`/emails/batch`; what is wrong with one leaves the others alone."""
    ids = hashlib.sha256(b"".join(mail.letter.request.email_id.encode() for mail in mails)).hexdigest()
    headers = {**_headers(provider, f"batch-{ids}"), "x-batch-validation": "permissive"}
    return as_json(_url(provider, "/emails/batch"), headers, [_message(mail) for mail in mails])


def answers(reply: Reply, count: int) -> list[Answer] | None:
    """The ids in order, with gaps where an error names a place."""
    whole = answer(reply)
    if whole.meaning is Meaning.REFUSED:
        return None
    if not 200 <= reply.status < 300:
        return [whole] * count
    refused = {error["index"]: str(error.get("message", "")) for error in _list(reply, "errors") if "index" in error}
    taken = iter(_list(reply, "data"))
    if len(refused) + len(_list(reply, "data")) != count:
        unclear = "its answer doesn't say what became of each message"
        return [answered(reply, Meaning.UNKNOWN, unclear)] * count
    return [
        answered(reply, Meaning.REFUSED, refused[place])
        if place in refused
        else answered(reply, Meaning.TAKEN, "accepted", str(next(taken, {}).get("id", "")))
        for place in range(count)
    ]


def check(provider: Provider, _now: Millis) -> Call:
    """The domains; a key that may only send answers, too, and says so."""
    return Call("GET", _url(provider, "/domains"), _authorized(provider))


def checked(reply: Reply) -> str:
    """What is wrong."""
    works = reply.status == 200 or reply.fields().get("name") == "restricted_api_key"
    return "" if works else answer(reply).text


def _message(mail: Mail) -> dict[str, Any]:
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
    wish |= {names[kind]: body for kind, body in message_parts.texts(letter, amp=False)}
    if answer_to := message_parts.reply_to(letter):
        wish["reply_to"] = answer_to
    if files := message_parts.attachments(letter):
        wish["attachments"] = [
            {"filename": file["name"], "content_type": file["type"], "content": file["data"]} for file in files
        ]
    return wish


def _list(reply: Reply, name: str) -> list[dict[str, Any]]:
    found = reply.fields().get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _URL) + path


def _headers(provider: Provider, key: str) -> dict[str, str]:
    return {**_authorized(provider), "Idempotency-Key": key}


def _authorized(provider: Provider) -> dict[str, str]:
    # It turns away whoever doesn't say who asks.
    return {"Authorization": f"Bearer {provider.password}", "User-Agent": "mailfold", "Accept": "application/json"}
