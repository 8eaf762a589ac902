"""Mailgun: our own MIME in, `messages.mime` out; what it is sent stays as it is, tracking by Mailgun included.

Its way to send many (recipient variables) is one message to many, so independent messages don't fit into it; it has
no idempotency, but keeps our Message-ID.
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
from pipeline.dispatch.transports.message_parts import check_size
from pipeline.webhooks.base import EMAIL_ID_KEY
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
"""By status, where it isn't what the status means everywhere; 420 was Mailgun's 429."""
_ABOUT_US: Final = re.compile(
    r"not allowed to send|authorized recipients|activate your|account is disabled|domain .{1,80} is (?:not|un)",
    re.IGNORECASE,
)
"""Said with a 400, of the account and not of the message."""


def missing_settings(provider: Provider) -> str:
    """What the row lacks."""
    if provider.region.lower() not in _REGIONS and not provider.api_url:
        return f"a region that Mailgun has (us or eu), not {provider.region}"
    wanted = {"a domain (as its user)": provider.username, "an API key": provider.password}
    return ", ".join(name for name, value in wanted.items() if not value)


def message_request(provider: Provider, mail: OutgoingEmail, _now: Millis) -> ApiRequest:
    """`messages.mime`: the envelope's recipient, whoever the message names."""
    check_size(len(mail.message), MAX_MESSAGE_BYTES, "Mailgun")
    fields = (
        ("to", mail.envelope.recipient),
        # Ours are in the message already; theirs would rewrite it.
        ("o:tracking", "no"),
        (f"v:{EMAIL_ID_KEY}", mail.letter.request.email_id),
    )
    boundary = f"mailfold-{mail.letter.request.email_id}"
    headers = {**_authorized(provider), "Content-Type": f"multipart/form-data; boundary={boundary}"}
    return ApiRequest("POST", _url(provider, after="/messages.mime"), headers, _form(fields, mail.message, boundary))


def message_result(reply: ApiResponse) -> SendResult:
    """Its message id, which is ours, or its words."""
    fields = reply.fields()
    said = str(fields.get("message") or body_excerpt(reply))
    if 200 <= reply.status < 300:
        return send_result(reply, SendOutcome.TAKEN, said, str(fields.get("id", "")).strip("<>"))
    meaning = ERROR_OUTCOMES.get(reply.status) or outcome_of_status(reply.status)
    if meaning is SendOutcome.REFUSED and _ABOUT_US.search(said):
        return send_result(reply, SendOutcome.MISCONFIGURED, said, of_one=True)
    return send_result(reply, meaning, said)


def check_request(provider: Provider, _now: Millis) -> ApiRequest:
    """The domain's own page."""
    return ApiRequest("GET", _url(provider, "domains/"), _authorized(provider))


def credential_problem(reply: ApiResponse) -> str:
    """What is wrong; a domain may be known and not verified."""
    if reply.status != 200:
        return message_result(reply).text
    domain = reply.fields().get("domain")
    state = domain.get("state", "active") if isinstance(domain, dict) else "active"
    return "" if state == "active" else f"the domain is {state}"


def _url(provider: Provider, before: str = "", after: str = "") -> str:
    own = _REGIONS.get(provider.region.lower(), _REGIONS[""])
    return f"{base_url(provider, own)}/v3/{before}{quote(provider.username, safe='')}{after}"


def _authorized(provider: Provider) -> dict[str, str]:
    return {"Authorization": basic_auth("api", provider.password), "Accept": "application/json"}


def _form(fields: Sequence[tuple[str, str]], message: bytes, boundary: str) -> bytes:
    """multipart/form-data (RFC 7578). The boundary has the email's id, which no message can guess."""
    mark = f"--{boundary}\r\n".encode()
    parts = [
        mark + f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields
    ]
    file = 'form-data; name="message"; filename="message.eml"\r\nContent-Type: message/rfc822'
    head = f"Content-Disposition: {file}\r\n\r\n".encode()
    return b"".join(parts) + mark + head + message + f"\r\n--{boundary}--\r\n".encode()
