"""Who carries our mail: how it goes there, and what verifies what it tells us. Credentials lie sealed."""

from dataclasses import dataclass, field
from typing import Any, Final

from psycopg.types.json import Jsonb

from pipeline.admin.sql import execute, fetch_row, fetch_rows
from pipeline.errors import NotFound
from pipeline.runtime.database import Pool
from pipeline.runtime.signing import seal, unseal

PROVIDER_KINDS: Final = (
    *("smtp", "sandbox", "sendgrid", "mailgun", "ses", "postmark", "sparkpost"),
    *("mailjet", "brevo", "resend", "mandrill", "mailersend", "mailtrap", "postal"),
)
"""Whose API we call, whose headers we add and whose webhooks we read."""

_SEALED_KEY_PREFIX: Final = "sealed:"
"""Before a sealed webhook key. One without it is a public key that was stored before they were sealed."""


@dataclass(frozen=True)
class Provider:
    """Who carries our mail."""

    provider: str
    host: str = ""
    port: int = 587
    kind: str = "smtp"
    tls: str = "opportunistic"
    username: str = ""
    password: str = field(default="", repr=False)
    """Of SMTP, or the API's key."""
    means_delivered: bool = False
    max_connections: int = 8
    webhook_keys: tuple[str, ...] = field(default=(), repr=False)
    """What verifies its webhooks, in the provider's own form, oldest first; any of them counts."""
    via: str = "smtp"
    """``smtp`` or ``api``."""
    region: str = ""
    api_url: str = ""
    """Empty: the provider's own."""
    options: tuple[tuple[str, str], ...] = ()
    """What only its kind knows: SES's configuration set, Postmark's message stream."""


async def add_provider(pool: Pool, provider: Provider, secret: str) -> None:
    """Add a provider or change it; without webhook keys it keeps those that it has."""
    sealed = seal(secret, provider.password) if provider.password else None
    keys = [_seal_key(secret, key) for key in provider.webhook_keys]
    await execute(
        pool,
        "add_provider",
        *(provider.provider, provider.kind, provider.via, provider.host, provider.port, provider.tls),
        *(provider.username, sealed, provider.means_delivered, provider.max_connections, keys),
        *(provider.region, provider.api_url, Jsonb(dict(provider.options))),
    )


async def rotate_webhook_key(pool: Pool, name: str, key: str, secret: str) -> None:
    """Let ``key`` count beside the newest one that there is; older ones end. Raises NotFound."""
    if not await execute(pool, "rotate_webhook_key", _seal_key(secret, key), name):
        raise _unknown(name)


async def end_old_webhook_keys(pool: Pool, name: str) -> None:
    """Only the newest key counts from now on. Raises NotFound."""
    if not await execute(pool, "end_old_webhook_keys", name):
        raise _unknown(name)


async def get_provider(pool: Pool, name: str, secret: str) -> Provider:
    """A provider with its credentials. Raises NotFound."""
    row = await fetch_row(pool, "provider", name)
    if row is None:
        raise _unknown(name)
    return _provider(row, secret)


async def list_providers(pool: Pool, secret: str) -> list[Provider]:
    """All providers."""
    return [_provider(row, secret) for row in await fetch_rows(pool, "providers")]


def _provider(row: tuple[Any, ...], secret: str) -> Provider:
    name, kind, via, host, port, tls, username, sealed, means_delivered, max_connections, keys = row[:11]
    region, api_url, options = row[11:]
    return Provider(
        provider=name,
        host=host,
        port=port,
        kind=kind,
        tls=tls,
        username=username,
        password=unseal(secret, sealed) if sealed is not None else "",
        means_delivered=means_delivered,
        max_connections=max_connections,
        webhook_keys=tuple(_unseal_key(secret, key) for key in keys),
        via=via,
        region=region,
        api_url=api_url,
        options=tuple(sorted(options.items())),
    )


def _seal_key(secret: str, key: str) -> str:
    return _SEALED_KEY_PREFIX + seal(secret, key).decode()


def _unseal_key(secret: str, kept: str) -> str:
    return (
        unseal(secret, kept.removeprefix(_SEALED_KEY_PREFIX).encode()) if kept.startswith(_SEALED_KEY_PREFIX) else kept
    )


def _unknown(name: str) -> NotFound:
    return NotFound(f"no provider {name}; `mailfold providers add` makes one")
