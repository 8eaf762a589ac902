"""Which adapter reads a kind of provider's webhooks: a new provider is one file, one golden folder, one row here."""

from collections.abc import Mapping
from typing import Final

from pipeline.errors import NotFound
from pipeline.webhooks.base import Adapter, OneTimeTokenAdapter, ProbeAdapter, SubscriptionAdapter
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
VERIFIED_BY_HEADERS: Final = frozenset({"postmark", "sparkpost", "mailjet", "brevo"})
"""Those whose `verify` reads no byte of the body: a password or token in a header is all they send."""
SUBSCRIPTION_ADAPTERS: Final[Mapping[str, SubscriptionAdapter]] = {"ses": ses}
"""Those whose signatures need a certificate, and who ask before they send."""
ONE_TIME_TOKEN_ADAPTERS: Final[Mapping[str, OneTimeTokenAdapter]] = {"mailgun": mailgun}
"""Those whose signature covers a token instead of the body."""
PROBE_ADAPTERS: Final[Mapping[str, ProbeAdapter]] = {"mandrill": mandrill, "mailersend": mailersend}
"""Those who try an address out before there is a key to sign with."""


def adapter_for(kind: str) -> Adapter:
    """The adapter for a provider's kind. Raises NotFound for one that sends no webhooks, such as plain SMTP."""
    try:
        return ADAPTERS[kind]
    except KeyError:
        raise NotFound(f"providers of kind {kind!r} send no webhooks that we read") from None
