"""Headers that make a provider repeat our email id in its events when mail goes to it by SMTP.

Pure; called by the message writer. Names and formats are the providers' own. A kind that is not listed here repeats
nothing; its events are correlated by the Message-ID or by the id in its 250 reply.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.content.message import MessageHeaders
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY
from topics.record import EmailId

_AS_JSON: Final = f'{{{{"{EMAIL_ID_KEY}": "{{0}}", "{EMAIL_TAG_KEY}": "{{1}}"}}}}'
_SENDGRID: Final = f'{{{{"unique_args": {_AS_JSON}}}}}'
_ONE_TEXT: Final = f"{EMAIL_ID_KEY}:{{0}}.{{1}}"
"""Id and tag for providers that repeat one text and no fields; what follows the full stop, older readers ignore."""
_ONE_TEXT_AS_JSON: Final = f'{{{{"{EMAIL_ID_KEY}": "{{0}}.{{1}}"}}}}'

_HEADERS: Final[Mapping[str, MessageHeaders]] = {
    "sandbox": (("X-SMTPAPI", _SENDGRID),),
    "sendgrid": (("X-SMTPAPI", _SENDGRID),),
    "mailgun": (("X-Mailgun-Variables", _AS_JSON),),
    "ses": (("X-SES-MESSAGE-TAGS", f"{EMAIL_ID_KEY}={{0}}, {EMAIL_TAG_KEY}={{1}}"),),
    "postmark": ((f"X-PM-Metadata-{EMAIL_ID_KEY}", "{0}"), (f"X-PM-Metadata-{EMAIL_TAG_KEY}", "{1}")),
    "sparkpost": (("X-MSYS-API", f'{{{{"metadata": {_AS_JSON}}}}}'),),
    "mailjet": (("X-MJ-EventPayload", _ONE_TEXT_AS_JSON),),
    "brevo": (("X-Mailin-custom", _ONE_TEXT_AS_JSON),),
    "mandrill": (("X-MC-Metadata", _AS_JSON),),
    "mailtrap": (("X-MT-Custom-Variables", _AS_JSON),),
    "mailersend": (("X-MailerSend-Tags", _ONE_TEXT),),
    "postal": (("X-Postal-Tag", _ONE_TEXT),),
}


def correlation_headers(kind: str, email_id: EmailId, tag: str) -> MessageHeaders:
    """Return the headers for a kind of provider, with the email's id and its tag; nothing if that kind has none."""
    return tuple((name, value.format(email_id, tag)) for name, value in _HEADERS.get(kind, ()))
