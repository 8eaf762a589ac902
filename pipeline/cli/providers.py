"""`mailfold providers`: store and list providers, with their credentials and webhook keys, in Postgres."""

from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from pipeline import admin
from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.admin.shown import shown_provider, shown_row
from pipeline.cli.context import (
    CREDENTIAL_SOURCE_HELP,
    ReasonOption,
    cell,
    console,
    read_credential,
    run_change,
    run_with_pool,
    table,
)
from pipeline.dispatch.transports.registry import configuration_problem
from pipeline.errors import Refused
from pipeline.operations.checks.webhook_keys import webhook_key_problem
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.secrets.secret_ring import secret_ring

app = typer.Typer(help="Providers that send our mail: SMTP servers and email services.", no_args_is_help=True)

KINDS_WITH_PUBLIC_KEYS: Final = frozenset({"sandbox", "sendgrid", "ses", "postal"})
"""Kinds of provider whose webhook keys are not secret: public keys, or the ARNs of SNS topics."""

WebhookKeyOption = Annotated[
    list[str] | None,
    typer.Option(help="What verifies its webhooks, where that is public: a public key, or the TopicArn of SNS."),
]
WebhookKeyEnvOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Secret of its webhooks, or user:password: {CREDENTIAL_SOURCE_HELP}. Repeatable.", metavar="NAME"
    ),
]
KindOption = Annotated[
    str, typer.Option(help=f"Headers to add and webhooks to read: {', '.join(admin.PROVIDER_KINDS)}.")
]
UsernameOption = Annotated[str, typer.Option(help="SMTP user; SES: access key id; Mailgun's API: the domain.")]
PasswordOption = Annotated[
    str, typer.Option(help=f"SMTP password or API key: {CREDENTIAL_SOURCE_HELP}.", metavar="NAME")
]
RegionOption = Annotated[str, typer.Option(help="The region, for providers that have several: eu-west-1, eu.")]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(help="An option of its kind: configuration_set=… (SES), message_stream=… (Postmark). Repeatable."),
]


@app.command("add")
def add_provider(
    provider: str,
    *,
    host: Annotated[str, typer.Option(help="SMTP host.")] = "",
    port: Annotated[int, typer.Option(help="SMTP port.", min=1, max=65535)] = 587,
    kind: KindOption = "smtp",
    via: Annotated[str, typer.Option(help="The transport: smtp, or api.")] = "smtp",
    tls: Annotated[str, typer.Option(help="opportunistic, required, implicit (port 465) or off.")] = "opportunistic",
    username: UsernameOption = "",
    password_env: PasswordOption = "",
    webhook_key: WebhookKeyOption = None,
    webhook_key_env: WebhookKeyEnvOption = None,
    region: RegionOption = "",
    api_url: Annotated[str, typer.Option(help="URL of its API, if not the provider's usual one.")] = "",
    option: ProviderOption = None,
    means_delivered: Annotated[bool, typer.Option(help="Count its 250 as the final delivery.")] = False,
    max_connections: Annotated[int, typer.Option(help="The most connections of one dispatcher.", min=1)] = 8,
    reason: ReasonOption = "",
) -> None:
    """Add a provider, or change it. Without a webhook key, its keys stay as they are; see `rotate`."""
    _check(kind, via, host, api_url)
    credential_name = "API key" if via == "api" else "SMTP password"
    row = admin.Provider(
        provider=provider,
        host=host,
        port=port,
        kind=kind,
        tls=tls,
        username=username,
        password=read_credential(credential_name, password_env) if username or password_env or via == "api" else "",
        means_delivered=means_delivered,
        max_connections=max_connections,
        webhook_keys=_webhook_keys(kind, webhook_key or [], webhook_key_env or []),
        via=via,
        region=region,
        api_url=api_url.rstrip("/"),
        options=tuple((name, value) for name, _, value in (text.partition("=") for text in option or [])),
    )
    _add(row, reason)


def _add(row: admin.Provider, reason: str) -> None:
    if problem := configuration_problem(row):
        raise Refused(problem)

    async def add(rt: Runtime, actions: ActionRecorder) -> None:
        before = await shown_row(rt.pool, "provider_shown", row.provider)
        after = shown_provider(row)
        change = OperatorChange("providers.add", row.provider, reason=reason, before=before, after=after)
        async with actions.recorded(change):
            await admin.add_provider(rt.pool, row, secret_ring(rt.settings))

    run_change(add)
    console().print(f"provider {row.provider}; next: mailfold brands add '*' --provider {row.provider}", markup=False)


@app.command("rotate")
def rotate(
    provider: str,
    webhook_key: WebhookKeyOption = None,
    webhook_key_env: WebhookKeyEnvOption = None,
    end: Annotated[bool, typer.Option("--end", help="Remove the older key, so that only the newest is valid.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Add a webhook key that is valid beside the present one; `--end`, a day later, removes the older one."""

    async def work(rt: Runtime, actions: ActionRecorder) -> str:
        ring = secret_ring(rt.settings)
        row = await admin.get_provider(rt.pool, provider, ring)
        before = await shown_row(rt.pool, "provider_shown", provider)
        if end:
            change = OperatorChange("providers.rotate", provider, reason=reason, before=before, after={"end": True})
            async with actions.recorded(change):
                await admin.end_old_webhook_keys(rt.pool, provider)
            return f"provider {provider}: only the newest webhook key is valid"
        if row.kind == "ses":
            raise Refused("TopicArns don't rotate: give all that are valid to `mailfold providers add --webhook-key`")
        # Without an option the command prompts for it, as for every credential.
        sources = webhook_key_env or ([] if webhook_key else [""])
        keys = _webhook_keys(row.kind, webhook_key or [], sources)
        if len(keys) != 1:
            raise Refused("give one key at a time: only the newest two are valid")
        change = OperatorChange("providers.rotate", provider, reason=reason, before=before, after={"end": False})
        async with actions.recorded(change):
            await admin.rotate_webhook_key(rt.pool, provider, keys[0], ring)
        return f"provider {provider}: the new webhook key and the one before it are valid; --end removes the older"

    console().print(run_change(work), markup=False)


@app.command("list")
def list_providers() -> None:
    """Show the providers without their credentials, and how many webhook keys each has."""
    listing = table("provider", "kind", "address", "tls", "user", "250 is delivery", "connections", "webhook keys")
    for row in run_with_pool(lambda pool, _: admin.fetch_rows(pool, "list_providers")):
        name, kind, via, host, port, tls, user, delivered, connections, keys, region, api_url = row
        api = " ".join(part for part in ("API", region, api_url) if part)
        address, tls_mode = (f"{host}:{port}", tls) if via == "smtp" else (api, "required")
        listing.add_row(*map(cell, (name, kind, address, tls_mode, user, delivered, connections, keys)))
    console().print(listing)


def _webhook_keys(kind: str, public: list[str], sources: list[str]) -> tuple[str, ...]:
    if public and kind not in KINDS_WITH_PUBLIC_KEYS:
        raise Refused(f"the webhook key of {kind} is a secret: give the name of its variable to --webhook-key-env")
    keys = (*public, *(read_credential("webhook key", source) for source in sources))
    for number, key in enumerate(keys, 1):
        if problem := webhook_key_problem(kind, key):
            raise Refused(f"webhook key {number} for {kind}: {problem}")
    return keys


def _check(kind: str, via: str, host: str, api_url: str) -> None:
    if kind not in admin.PROVIDER_KINDS:
        raise Refused(f"{kind}: not a kind of provider; it must be one of {', '.join(admin.PROVIDER_KINDS)}")
    if via == "smtp" and not host:
        raise Refused("--host: required for an SMTP provider")
    parts = urlsplit(api_url)
    is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if api_url and not (parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and is_local))):
        raise Refused(f"{api_url}: not an https URL, so the API key would be sent unencrypted")
    if parts.username or parts.query or parts.fragment:
        raise Refused(f"{api_url}: must contain no credentials, ? or #")
