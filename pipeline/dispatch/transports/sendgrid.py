"""SendGrid: a letter's parts in, v3 `mail/send` out. It knows no raw message.

Its `personalizations` send one content to many, so independent messages don't fit into it; it has no idempotency.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.admin import Provider
from pipeline.content.message import OutgoingMessage
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
from pipeline.errors import Refused
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import Millis
from topics.requests import Mailbox

SUPPORTS_SMTPUTF8: bool = False
TAKES_MIME: bool = False
IS_IDEMPOTENT: bool = False
OPTION_NAMES: tuple[str, ...] = ("ip_pool",)
MAX_MESSAGE_BYTES: Final = 30_000_000
MAX_CUSTOM_ARGS_BYTES: Final = 10_000

_REGIONS: Final = {
    "": "https://api.sendgrid.com",
    "global": "https://api.sendgrid.com",
    "eu": "https://api.eu.sendgrid.com",
}
_RESERVED: Final = frozenset(
    {"x-sg-id", "x-sg-eid", "x-smtpapi", "received", "dkim-signature", "content-type", "content-transfer-encoding"}
)
"""Headers that it answers with a 400."""

ERROR_OUTCOMES: Final[Mapping[int, SendOutcome]] = {
    # Credits are spent or the sender isn't verified: 401 and 403, as everywhere.
    405: SendOutcome.MISCONFIGURED,
}
"""By status, where it isn't what the status means everywhere."""
_TRACKING_OFF: Final = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
}
"""Ours are in the message already; theirs would rewrite it."""


def missing_settings(provider: Provider) -> str:
    """What the row lacks."""
    if provider.region.lower() not in _REGIONS and not provider.api_url:
        return f"a region that SendGrid has (global or eu), not {provider.region}"
    return "" if provider.password else "an API key"


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
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
        "content": [{"type": kind, "value": text} for kind, text in message_parts.bodies(letter, amp=True)],
        "headers": {
            name: value for name, value in message_parts.headers(letter).items() if name.lower() not in _RESERVED
        },
        "tracking_settings": _TRACKING_OFF,
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
    made = json_request(_url(provider, "/v3/mail/send"), _authorized(provider), wish)
    message_parts.check_size(len(made.body), MAX_MESSAGE_BYTES, "SendGrid")
    return made


def message_result(reply: ApiResponse) -> SendResult:
    """Its message id, which is a header, or its errors."""
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, "accepted", reply.headers.get("x-message-id", ""))
    return send_result(reply, ERROR_OUTCOMES.get(reply.status) or outcome_of_status(reply.status), _said(reply))


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """What the key may do."""
    return ApiRequest("GET", _url(provider, "/v3/scopes"), _authorized(provider))


def credential_problem(reply: ApiResponse) -> str:
    """What is wrong; a key may work and not be allowed to send."""
    if reply.status != 200:
        return _said(reply)
    scopes = reply.fields().get("scopes")
    return "" if isinstance(scopes, list) and "mail.send" in scopes else "the key may not send (no scope mail.send)"


def _subject(letter: OutgoingMessage) -> str:
    found = message_parts.subject(letter)
    if not found:
        raise Refused("SendGrid takes no message without a subject")
    return found


def _mailbox(mailbox: Mailbox, *, quoted: bool = False) -> dict[str, str]:
    """Recipients' names are split at commas and semicolons unless quoted (sendgrid-python#291); the sender's aren't."""
    name = message_parts.display_name(mailbox)
    if quoted and ("," in name or ";" in name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return {"email": message_parts.address(mailbox)} | ({"name": name} if name else {})


def _said(reply: ApiResponse) -> str:
    errors = reply.fields().get("errors")
    if not isinstance(errors, list):
        return body_excerpt(reply)
    return "; ".join(str(error.get("message", "")) for error in errors if isinstance(error, dict))


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _REGIONS.get(provider.region.lower(), _REGIONS[""])) + path


def _authorized(provider: Provider) -> dict[str, str]:
    return {"Authorization": f"Bearer {provider.password}"}
