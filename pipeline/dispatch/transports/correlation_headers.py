"""Headers that make a provider repeat our email id in its events when mail goes to it by SMTP.

Pure; called by the message writer. Names and formats are the providers' own. A kind that is not listed here repeats
nothing; its events are correlated by the Message-ID or by the id in its 250 reply.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.content.message import MessageHeaders
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import EmailId

_AS_JSON: Final = f'{{{{"{EMAIL_ID_KEY}": "{{}}"}}}}'
_SENDGRID: Final = f'{{{{"unique_args": {_AS_JSON}}}}}'

_HEADERS: Final[Mapping[str, tuple[str, str]]] = {
    "sandbox": ("X-SMTPAPI", _SENDGRID),
    "sendgrid": ("X-SMTPAPI", _SENDGRID),
    "mailgun": ("X-Mailgun-Variables", _AS_JSON),
    "ses": ("X-SES-MESSAGE-TAGS", f"{EMAIL_ID_KEY}={{}}"),
    "postmark": (f"X-PM-Metadata-{EMAIL_ID_KEY}", "{}"),
    "sparkpost": ("X-MSYS-API", f'{{{{"metadata": {_AS_JSON}}}}}'),
    "mailjet": ("X-MJ-EventPayload", _AS_JSON),
    "brevo": ("X-Mailin-custom", _AS_JSON),
    "mandrill": ("X-MC-Metadata", _AS_JSON),
    "mailtrap": ("X-MT-Custom-Variables", _AS_JSON),
    "mailersend": ("X-MailerSend-Tags", f"{EMAIL_ID_KEY}:{{}}"),
    "postal": ("X-Postal-Tag", f"{EMAIL_ID_KEY}:{{}}"),
}


def correlation_header(kind: str, email_id: EmailId) -> MessageHeaders:
    """Return the header for a kind of provider; nothing if that kind has none."""
    header = _HEADERS.get(kind)
    return ((header[0], header[1].format(email_id)),) if header else ()
