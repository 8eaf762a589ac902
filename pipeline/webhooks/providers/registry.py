"""Map each kind of provider to its adapter; the gateway, the normalizer and the operator commands look them up here.

A new provider needs a module, a folder of golden payloads, a row here, a kind in :data:`pipeline.admin.PROVIDER_KINDS`
with a migration of its check, and a page in docs/how-to/providers.
"""

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
"""Providers that authenticate by a password or a token in a header only; their `verify` does not read the body."""
SUBSCRIPTION_ADAPTERS: Final[Mapping[str, SubscriptionAdapter]] = {"ses": ses}
"""Providers whose signatures need a certificate, and whose subscriptions need a confirmation."""
ONE_TIME_TOKEN_ADAPTERS: Final[Mapping[str, OneTimeTokenAdapter]] = {"mailgun": mailgun}
"""Providers whose signature covers a one-time token instead of the body."""
PROBE_ADAPTERS: Final[Mapping[str, ProbeAdapter]] = {"mandrill": mandrill, "mailersend": mailersend}
"""Providers that test the URL before a key exists to sign with."""


def adapter_for(kind: str) -> Adapter:
    """Return the adapter of a provider's kind. Raise NotFound for one that sends no webhooks, such as plain SMTP."""
    try:
        return ADAPTERS[kind]
    except KeyError:
        raise NotFound(f"providers of kind {kind!r} send no webhooks that we read") from None
