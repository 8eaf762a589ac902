"""A provider's kind in, the header out by which it repeats our email's id in its events, where mail goes by SMTP. Pure.

Names and forms are the providers' own; who isn't here repeats nothing, and its events are
correlated by the Message-ID or by the id in its 250.
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
    """The header, if its kind has one."""
    found = _HEADERS.get(kind)
    return ((found[0], found[1].format(email_id)),) if found else ()
