"""SendGrid: a letter's parts in, v3 `mail/send` out. It knows no raw message.

Its `personalizations` send one content to many, so independent messages don't fit into it; it has no idempotency.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.admin import Provider
from pipeline.content.message import Letter
from pipeline.dispatch.transports import message_parts
from pipeline.dispatch.transports.api_base import Call, Reply, answered, as_json, base_url, by_status, option, words
from pipeline.dispatch.transports.base import Answer, Mail, Meaning
from pipeline.errors import Refused
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import Millis
from topics.requests import Mailbox

SMTPUTF8: bool = False
MIME: bool = False
REPEATS: bool = False
OPTIONS: tuple[str, ...] = ("ip_pool",)
MOST_BYTES: Final = 30_000_000
MOST_ARGUMENTS: Final = 10_000

_REGIONS: Final = {
    "": "https://api.sendgrid.com",
    "global": "https://api.sendgrid.com",
    "eu": "https://api.eu.sendgrid.com",
}
_RESERVED: Final = frozenset(
    {"x-sg-id", "x-sg-eid", "x-smtpapi", "received", "dkim-signature", "content-type", "content-transfer-encoding"}
)
"""Headers that it answers with a 400."""

ERRORS: Final[Mapping[int, Meaning]] = {
    # Credits are spent or the sender isn't verified: 401 and 403, as everywhere.
    405: Meaning.MISCONFIGURED,
}
"""By status, where it isn't what the status means everywhere."""
_OFF: Final = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
}
"""Ours are in the message already; theirs would rewrite it."""


def missing(provider: Provider) -> str:
    """What the row lacks."""
    if provider.region.lower() not in _REGIONS and not provider.api_url:
        return f"a region that SendGrid has (global or eu), not {provider.region}"
    return "" if provider.password else "an API key"


def call(provider: Provider, mail: Mail, _now: Millis) -> Call:
    """`mail/send` with one personalization."""
    letter = mail.letter
    wish: dict[str, Any] = {
        "personalizations": [
            {
                # The recipient alone: whoever is named here gets the mail, and each recipient has one of their own.
                "to": [_mailbox(letter.recipient, quoted=True)],
                "custom_args": {EMAIL_ID_KEY: letter.request.email_id},
            }
        ],
        "from": _mailbox(letter.sender),
        "subject": _subject(letter),
        "content": [{"type": kind, "value": text} for kind, text in message_parts.texts(letter, amp=True)],
        "headers": {
            name: value for name, value in message_parts.headers(letter).items() if name.lower() not in _RESERVED
        },
        "tracking_settings": _OFF,
    }
    if answer_to := message_parts.reply_to(letter):
        wish["reply_to_list"] = [{"email": address} for address in answer_to]
    if files := message_parts.attachments(letter):
        wish["attachments"] = [
            {"filename": file["name"], "type": file["type"], "content": file["data"], "disposition": "attachment"}
            for file in files
        ]
    if pool := option(provider, "ip_pool"):
        wish["ip_pool_name"] = pool
    made = as_json(_url(provider, "/v3/mail/send"), _authorized(provider), wish)
    message_parts.check_size(len(made.body), MOST_BYTES, "SendGrid")
    return made


def answer(reply: Reply) -> Answer:
    """Its message id, which is a header, or its errors."""
    if 200 <= reply.status < 300:
        return answered(reply, Meaning.TAKEN, "accepted", reply.headers.get("x-message-id", ""))
    return answered(reply, ERRORS.get(reply.status) or by_status(reply.status), _said(reply))


def check(provider: Provider, _now: Millis) -> Call:
    """What the key may do."""
    return Call("GET", _url(provider, "/v3/scopes"), _authorized(provider))


def checked(reply: Reply) -> str:
    """What is wrong; a key may work and not be allowed to send."""
    if reply.status != 200:
        return _said(reply)
    scopes = reply.fields().get("scopes")
    return "" if isinstance(scopes, list) and "mail.send" in scopes else "the key may not send (no scope mail.send)"


def _subject(letter: Letter) -> str:
    found = message_parts.subject(letter)
    if not found:
        raise Refused("SendGrid takes no message without a subject")
    return found


def _mailbox(mailbox: Mailbox, *, quoted: bool = False) -> dict[str, str]:
    """Recipients' names are split at commas and semicolons unless quoted (sendgrid-python#291); the sender's aren't."""
    name = message_parts.name(mailbox)
    if quoted and ("," in name or ";" in name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return {"email": message_parts.address(mailbox)} | ({"name": name} if name else {})


def _said(reply: Reply) -> str:
    errors = reply.fields().get("errors")
    if not isinstance(errors, list):
        return words(reply)
    return "; ".join(str(error.get("message", "")) for error in errors if isinstance(error, dict))


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _REGIONS.get(provider.region.lower(), _REGIONS[""])) + path


def _authorized(provider: Provider) -> dict[str, str]:
    return {"Authorization": f"Bearer {provider.password}"}
