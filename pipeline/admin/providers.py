"""Providers: how mail is sent through them and how their webhooks are verified. Their credentials are stored sealed."""

from dataclasses import dataclass, field
from typing import Any, Final

from psycopg.types.json import Jsonb

from pipeline.admin.sealing import seal_webhook_key, unseal_webhook_key
from pipeline.admin.sql import execute, fetch_row, fetch_rows
from pipeline.errors import NotFound
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import seal, unseal

PROVIDER_KINDS: Final = (
    *("smtp", "sandbox", "sendgrid", "mailgun", "ses", "postmark", "sparkpost"),
    *("mailjet", "brevo", "resend", "mandrill", "mailersend", "mailtrap", "postal"),
)
"""Kinds of providers; a kind determines the API calls, the added headers and the format of webhooks."""


@dataclass(frozen=True)
class Provider:
    """A provider that delivers our mail, with its credentials."""

    provider: str
    host: str = ""
    port: int = 587
    kind: str = "smtp"
    tls: str = "opportunistic"
    username: str = ""
    password: str = field(default="", repr=False)
    """The SMTP password, or the API key."""
    means_delivered: bool = False
    max_connections: int = 8
    webhook_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys that verify its webhooks, in the provider's own form, oldest first; any of them is accepted."""
    via: str = "smtp"
    """``smtp`` or ``api``."""
    region: str = ""
    api_url: str = ""
    """The API's base URL; empty: the provider's own."""
    options: tuple[tuple[str, str], ...] = ()
    """Settings of its kind alone, such as SES's configuration set and Postmark's message stream."""


async def add_provider(pool: Pool, provider: Provider, ring: SecretRing) -> None:
    """Add a provider or change it; one without webhook keys keeps those that are stored."""
    sealed = seal(ring, provider.password) if provider.password else None
    keys = [seal_webhook_key(ring, key) for key in provider.webhook_keys]
    await execute(
        pool,
        "add_provider",
        *(provider.provider, provider.kind, provider.via, provider.host, provider.port, provider.tls),
        *(provider.username, sealed, provider.means_delivered, provider.max_connections, keys),
        *(provider.region, provider.api_url, Jsonb(dict(provider.options))),
    )


async def rotate_webhook_key(pool: Pool, name: str, key: str, ring: SecretRing) -> None:
    """Add a webhook key; it and the newest stored one are accepted, older ones are removed. Raise NotFound."""
    if not await execute(pool, "rotate_webhook_key", seal_webhook_key(ring, key), name):
        raise _unknown(name)


async def end_old_webhook_keys(pool: Pool, name: str) -> None:
    """Remove all webhook keys of a provider but the newest. Raise NotFound."""
    if not await execute(pool, "end_old_webhook_keys", name):
        raise _unknown(name)


async def get_provider(pool: Pool, name: str, ring: SecretRing) -> Provider:
    """Return a provider with its credentials. Raise NotFound."""
    row = await fetch_row(pool, "provider", name)
    if row is None:
        raise _unknown(name)
    return _provider(row, ring)


async def list_providers(pool: Pool, ring: SecretRing) -> list[Provider]:
    """Return all providers, with their credentials."""
    return [_provider(row, ring) for row in await fetch_rows(pool, "providers")]


def _provider(row: tuple[Any, ...], ring: SecretRing) -> Provider:
    name, kind, via, host, port, tls, username, sealed, means_delivered, max_connections, keys = row[:11]
    region, api_url, options = row[11:]
    return Provider(
        provider=name,
        host=host,
        port=port,
        kind=kind,
        tls=tls,
        username=username,
        password=unseal(ring, sealed) if sealed is not None else "",
        means_delivered=means_delivered,
        max_connections=max_connections,
        webhook_keys=tuple(unseal_webhook_key(ring, key) for key in keys),
        via=via,
        region=region,
        api_url=api_url,
        options=tuple(sorted(options.items())),
    )


def _unknown(name: str) -> NotFound:
    return NotFound(f"no provider {name}; `mailfold providers add` makes one")
