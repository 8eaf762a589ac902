"""Which adapter reads a kind of provider's webhooks: a new provider is one file, one golden folder, one row here."""

from collections.abc import Mapping
from typing import Final

from pipeline.errors import NotFound
from pipeline.webhooks.base import Adapter, Greeting, Once, Subscribing
from pipeline.webhooks.providers import (
    bounce_mail,
    brevo,
    mailersend,
    mailgun,
    mailjet,
    mailtrap,
    mandrill,
    postal,
    postmark,
    resend,
    sendgrid,
    ses,
    sparkpost,
)

ADAPTERS: Final[Mapping[str, Adapter]] = {
    "mail": bounce_mail,
    "sendgrid": sendgrid,
    "sandbox": sendgrid,
    "ses": ses,
    "mailgun": mailgun,
    "postmark": postmark,
    "sparkpost": sparkpost,
    "mailjet": mailjet,
    "brevo": brevo,
    "resend": resend,
    "mandrill": mandrill,
    "mailersend": mailersend,
    "mailtrap": mailtrap,
    "postal": postal,
}
PROVEN_BY_HEADERS: Final = frozenset({"postmark", "sparkpost", "mailjet", "brevo"})
"""Those whose `verify` reads no byte of the body: a password or token in a header is all they send."""
SUBSCRIBING: Final[Mapping[str, Subscribing]] = {"ses": ses}
"""Those whose signatures need a certificate, and who ask before they send."""
ONCE: Final[Mapping[str, Once]] = {"mailgun": mailgun}
"""Those whose signature covers a token instead of the body."""
GREETING: Final[Mapping[str, Greeting]] = {"mandrill": mandrill, "mailersend": mailersend}
"""Those who try an address out before there is a key to sign with."""


def adapter(kind: str) -> Adapter:
    """The adapter for a provider's kind. Raises NotFound for one that sends no webhooks, such as plain SMTP."""
    try:
        return ADAPTERS[kind]
    except KeyError:
        raise NotFound(f"providers of kind {kind!r} send no webhooks that we read") from None
