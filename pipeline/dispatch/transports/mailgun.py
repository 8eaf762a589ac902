"""The API of Mailgun: our MIME message, sent with `messages.mime` and Mailgun's own tracking switched off.

Its batch sending (recipient variables) is one message to many recipients, so independent messages do not fit; it has
no idempotency, but it keeps our Message-ID.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import (
    ApiRequest,
    ApiResponse,
    base_url,
    basic_auth,
    body_excerpt,
    outcome_of_status,
    send_result,
)
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.message_parts import check_size, echo
from topics.record import Millis

SUPPORTS_SMTPUTF8: bool = True
TAKES_MIME: bool = True
IS_IDEMPOTENT: bool = False
OPTION_NAMES: tuple[str, ...] = ()
MAX_MESSAGE_BYTES: Final = 25_000_000

_REGIONS: Final = {"": "https://api.mailgun.net", "us": "https://api.mailgun.net", "eu": "https://api.eu.mailgun.net"}

ERROR_OUTCOMES: Final[Mapping[int, SendOutcome]] = {
    402: SendOutcome.MISCONFIGURED,
    404: SendOutcome.MISCONFIGURED,
    420: SendOutcome.LATER,
}
"""Statuses that mean something else than usual; 420 was Mailgun's 429."""
_ACCOUNT_FAULT: Final = re.compile(
    r"not allowed to send|authorized recipients|activate your|account is disabled|domain .{1,80} is (?:not|un)",
    re.IGNORECASE,
)
"""Texts of a 400 that are about the account and not about the message."""


def missing_settings(provider: Provider) -> str:
    """Return what the provider's row lacks."""
    if provider.region.lower() not in _REGIONS and not provider.api_url:
        return f"a region that Mailgun has (us or eu), not {provider.region}"
    required = {"a domain (as its user)": provider.username, "an API key": provider.password}
    return ", ".join(name for name, value in required.items() if not value)


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
    """Return a `messages.mime` request to the recipient of the envelope; the message's headers may name others."""
    check_size(len(mail.mime_bytes), MAX_MESSAGE_BYTES, "Mailgun")
    fields = (
        ("to", mail.envelope.recipient),
        # Our own tracking links are in the message already; Mailgun's would rewrite them.
        ("o:tracking", "no"),
        *((f"v:{name}", value) for name, value in echo(mail.message).items()),
    )
    boundary = f"mailfold-{mail.message.request.email_id}"
    headers = {**_auth_headers(provider), "Content-Type": f"multipart/form-data; boundary={boundary}"}
    return ApiRequest("POST", _url(provider, after="/messages.mime"), headers, _form(fields, mail.mime_bytes, boundary))


def message_result(reply: ApiResponse) -> SendResult:
    """Return the result of a send, with Mailgun's message id, which is ours, or its error text."""
    fields = reply.fields()
    text = str(fields.get("message") or body_excerpt(reply))
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, text, str(fields.get("id", "")).strip("<>"))
    outcome = ERROR_OUTCOMES.get(reply.status) or outcome_of_status(reply.status)
    if outcome is SendOutcome.REFUSED and _ACCOUNT_FAULT.search(text):
        return send_result(reply, SendOutcome.MISCONFIGURED, text, concerns_one_email=True)
    return send_result(reply, outcome, text)


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """Return a request for the state of the domain."""
    return ApiRequest("GET", _url(provider, "domains/"), _auth_headers(provider))


def credential_problem(reply: ApiResponse) -> str:
    """Return what is wrong with the credential or the domain, which may exist without being verified."""
    if reply.status != 200:
        return message_result(reply).text
    domain = reply.fields().get("domain")
    state = domain.get("state", "active") if isinstance(domain, dict) else "active"
    return "" if state == "active" else f"the domain is {state}"


def _url(provider: Provider, before: str = "", after: str = "") -> str:
    default = _REGIONS.get(provider.region.lower(), _REGIONS[""])
    return f"{base_url(provider, default)}/v3/{before}{quote(provider.username, safe='')}{after}"


def _auth_headers(provider: Provider) -> dict[str, str]:
    return {"Authorization": basic_auth("api", provider.password), "Accept": "application/json"}


def _form(fields: Sequence[tuple[str, str]], mime_bytes: bytes, boundary: str) -> bytes:
    """Return a body of multipart/form-data (RFC 7578); the boundary has the email id, which no message contains."""
    delimiter = f"--{boundary}\r\n".encode()
    parts = [
        delimiter + f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    file = 'form-data; name="message"; filename="message.eml"\r\nContent-Type: message/rfc822'
    head = f"Content-Disposition: {file}\r\n\r\n".encode()
    return b"".join(parts) + delimiter + head + mime_bytes + f"\r\n--{boundary}--\r\n".encode()
