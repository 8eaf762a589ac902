"""The API of SendGrid: the parts of a message, sent with v3 `mail/send`, which takes no MIME message.

Its `personalizations` send one content to many recipients, so independent messages do not fit; it has no idempotency.
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
from topics.record import Millis
from topics.requests import Mailbox

SUPPORTS_SMTPUTF8: bool = False
TAKES_MIME: bool = False
IS_IDEMPOTENT: bool = False
OPTION_NAMES: tuple[str, ...] = ("ip_pool",)
MAX_MESSAGE_BYTES: Final = 30_000_000

_REGIONS: Final = {
    "": "https://api.sendgrid.com",
    "global": "https://api.sendgrid.com",
    "eu": "https://api.eu.sendgrid.com",
}
_RESERVED_HEADERS: Final = frozenset(
    {"x-sg-id", "x-sg-eid", "x-smtpapi", "received", "dkim-signature", "content-type", "content-transfer-encoding"}
)
"""Headers that SendGrid refuses with a 400."""

ERROR_OUTCOMES: Final[Mapping[int, SendOutcome]] = {
    # Spent credits and an unverified sender get a 401 or 403, which mean the same for all APIs.
    405: SendOutcome.MISCONFIGURED,
}
"""Statuses that mean something else than usual."""
_TRACKING_OFF: Final = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
}
"""Settings that switch SendGrid's tracking off; our own links are in the message already and would be rewritten."""


def missing_settings(provider: Provider) -> str:
    """Return what the provider's row lacks."""
    if provider.region.lower() not in _REGIONS and not provider.api_url:
        return f"a region that SendGrid has (global or eu), not {provider.region}"
    return "" if provider.password else "an API key"


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
    """Return a `mail/send` request with one personalization."""
    message = mail.message
    payload: dict[str, Any] = {
        "personalizations": [
            {
                # Only the recipient: SendGrid sends to every address named here, and each recipient has an email of
                # their own.
                "to": [_mailbox(message.recipient, quoted=True)],
                "custom_args": message_parts.echo(message),
            }
        ],
        "from": _mailbox(message.sender),
        "subject": _subject(message),
        "content": [{"type": kind, "value": text} for kind, text in message_parts.bodies(message, amp=True)],
        "headers": {
            name: value
            for name, value in message_parts.headers(message).items()
            if name.lower() not in _RESERVED_HEADERS
        },
        "tracking_settings": _TRACKING_OFF,
    }
    if reply_to := message_parts.reply_to(message):
        payload["reply_to_list"] = [{"email": address} for address in reply_to]
    if files := message_parts.attachments(message):
        payload["attachments"] = [
            {"filename": file["name"], "type": file["type"], "content": file["data"], "disposition": "attachment"}
            for file in files
        ]
    if pool := option(provider, "ip_pool"):
        payload["ip_pool_name"] = pool
    request = json_request(_url(provider, "/v3/mail/send"), _auth_headers(provider), payload)
    message_parts.check_size(len(request.body), MAX_MESSAGE_BYTES, "SendGrid")
    return request


def message_result(reply: ApiResponse) -> SendResult:
    """Return the result of a send, with SendGrid's message id, which is in a header, or the text of its errors."""
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, "accepted", reply.headers.get("x-message-id", ""))
    return send_result(reply, ERROR_OUTCOMES.get(reply.status) or outcome_of_status(reply.status), _error_text(reply))


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """Return a request for what the key is allowed to do."""
    return ApiRequest("GET", _url(provider, "/v3/scopes"), _auth_headers(provider))


def credential_problem(reply: ApiResponse) -> str:
    """Return what is wrong with the key, which may be valid and still not be allowed to send."""
    if reply.status != 200:
        return _error_text(reply)
    scopes = reply.fields().get("scopes")
    return "" if isinstance(scopes, list) and "mail.send" in scopes else "the key may not send (no scope mail.send)"


def _subject(message: OutgoingMessage) -> str:
    subject = message_parts.subject(message)
    if not subject:
        raise Refused("SendGrid takes no message without a subject")
    return subject


def _mailbox(mailbox: Mailbox, *, quoted: bool = False) -> dict[str, str]:
    """Return a mailbox as SendGrid takes it.

    It splits the names of recipients, but not of the sender, at commas and semicolons unless they are ``quoted``
    (sendgrid-python#291).
    """
    name = message_parts.display_name(mailbox)
    if quoted and ("," in name or ";" in name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return {"email": message_parts.address(mailbox)} | ({"name": name} if name else {})


def _error_text(reply: ApiResponse) -> str:
    errors = reply.fields().get("errors")
    if not isinstance(errors, list):
        return body_excerpt(reply)
    return "; ".join(str(error.get("message", "")) for error in errors if isinstance(error, dict))


def _url(provider: Provider, path: str) -> str:
    return base_url(provider, _REGIONS.get(provider.region.lower(), _REGIONS[""])) + path


def _auth_headers(provider: Provider) -> dict[str, str]:
    return {"Authorization": f"Bearer {provider.password}"}
