"""`mailfold providers`: who carries our mail and what verifies what they tell us, into Postgres and out."""

from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from pipeline import admin
from pipeline.cli.context import CREDENTIAL_SOURCE_HELP, cell, console, read_credential, run_with_pool, secret_of, table
from pipeline.dispatch.transports.registry import configuration_problem
from pipeline.errors import Refused
from pipeline.operations.checks.webhook_keys import webhook_key_problem
from pipeline.runtime.database import Pool
from pipeline.settings import Settings

app = typer.Typer(help="Who carries our mail: SMTP servers and email services.", no_args_is_help=True)

KINDS_WITH_PUBLIC_KEYS: Final = frozenset({"sandbox", "sendgrid", "ses", "postal"})
"""Whose webhook keys are no secrets: public keys, or the names of SNS topics."""

WebhookKeyOption = Annotated[
    list[str] | None,
    typer.Option(help="Where its webhooks are verified by something public: the public key, or SNS's TopicArn."),
]
WebhookKeyEnvOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Secret of its webhooks, or user:password: {CREDENTIAL_SOURCE_HELP}. Repeatable.", metavar="NAME"
    ),
]
KindOption = Annotated[str, typer.Option(help=f"{', '.join(admin.PROVIDER_KINDS)}: headers added and webhooks read.")]
UsernameOption = Annotated[str, typer.Option(help="SMTP user; SES: access key id; Mailgun's API: the domain.")]
PasswordOption = Annotated[
    str, typer.Option(help=f"SMTP password or API key: {CREDENTIAL_SOURCE_HELP}.", metavar="NAME")
]
RegionOption = Annotated[str, typer.Option(help="The provider's region, where it has some: eu-west-1, eu.")]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(help="What only its kind knows: configuration_set=… (SES), message_stream=… (Postmark). Repeatable."),
]


@app.command("add")
def add_provider(
    provider: str,
    *,
    host: Annotated[str, typer.Option(help="SMTP host.")] = "",
    port: Annotated[int, typer.Option(help="SMTP port.", min=1, max=65535)] = 587,
    kind: KindOption = "smtp",
    via: Annotated[str, typer.Option(help="How mail goes there: smtp, or api.")] = "smtp",
    tls: Annotated[str, typer.Option(help="opportunistic, required, implicit (port 465) or off.")] = "opportunistic",
    username: UsernameOption = "",
    password_env: PasswordOption = "",
    webhook_key: WebhookKeyOption = None,
    webhook_key_env: WebhookKeyEnvOption = None,
    region: RegionOption = "",
    api_url: Annotated[str, typer.Option(help="Its API, if not the provider's own.")] = "",
    option: ProviderOption = None,
    means_delivered: Annotated[bool, typer.Option(help="Its 250 is the final delivery.")] = False,
    max_connections: Annotated[int, typer.Option(help="Connections at once, per dispatcher.", min=1)] = 8,
) -> None:
    """Add a provider, or change it. Webhook keys stay as they are where none is given; see `rotate`."""
    _check(kind, via, host, api_url)
    asked = "API key" if via == "api" else "SMTP password"
    row = admin.Provider(
        provider=provider,
        host=host,
        port=port,
        kind=kind,
        tls=tls,
        username=username,
        password=read_credential(asked, password_env) if username or password_env or via == "api" else "",
        means_delivered=means_delivered,
        max_connections=max_connections,
        webhook_keys=_webhook_keys(kind, webhook_key or [], webhook_key_env or []),
        via=via,
        region=region,
        api_url=api_url.rstrip("/"),
        options=tuple((name, value) for name, _, value in (one.partition("=") for one in option or [])),
    )
    _add(row)


def _add(row: admin.Provider) -> None:
    if missing := configuration_problem(row):
        raise Refused(missing)
    run_with_pool(lambda pool, settings: admin.add_provider(pool, row, secret_of(settings)))
    console().print(f"provider {row.provider}; next: mailfold brands add '*' --provider {row.provider}", markup=False)


@app.command("rotate")
def rotate(
    provider: str,
    webhook_key: WebhookKeyOption = None,
    webhook_key_env: WebhookKeyEnvOption = None,
    end: Annotated[bool, typer.Option("--end", help="End the older key: only the newest counts.")] = False,
) -> None:
    """Let a new webhook key count beside the newest there is; `--end`, a day later, ends the older one."""

    async def work(pool: Pool, settings: Settings) -> str:
        row = await admin.get_provider(pool, provider, secret_of(settings))
        if end:
            await admin.end_old_webhook_keys(pool, provider)
            return f"provider {provider}: only the newest webhook key counts"
        if row.kind == "ses":
            raise Refused("TopicArns don't rotate: `mailfold providers add` with each --webhook-key says which count")
        # Without an option it is asked for, as every credential is.
        sources = webhook_key_env or ([] if webhook_key else [""])
        keys = _webhook_keys(row.kind, webhook_key or [], sources)
        if len(keys) != 1:
            raise Refused("one key at a time: the newest two count")
        await admin.rotate_webhook_key(pool, provider, keys[0], secret_of(settings))
        return f"provider {provider} takes the new webhook key beside the newest one before it; end that with --end"

    console().print(run_with_pool(work), markup=False)


@app.command("list")
def list_providers() -> None:
    """Show the providers, without their credentials; of webhook keys, how many."""
    shown = table("provider", "kind", "where", "tls", "user", "250 is delivery", "connections", "webhook keys")
    for row in run_with_pool(lambda pool, _: admin.fetch_rows(pool, "list_providers")):
        name, kind, via, host, port, tls, user, delivered, connections, keys, region, api_url = row
        api = " ".join(part for part in ("API", region, api_url) if part)
        where, secured = (f"{host}:{port}", tls) if via == "smtp" else (api, "required")
        shown.add_row(*map(cell, (name, kind, where, secured, user, delivered, connections, keys)))
    console().print(shown)


def _webhook_keys(kind: str, public: list[str], sources: list[str]) -> tuple[str, ...]:
    if public and kind not in KINDS_WITH_PUBLIC_KEYS:
        raise Refused(f"the webhook key of {kind} is a secret: name where it stands with --webhook-key-env")
    keys = (*public, *(read_credential("webhook key", source) for source in sources))
    for number, key in enumerate(keys, 1):
        if wrong := webhook_key_problem(kind, key):
            raise Refused(f"webhook key {number} for {kind}: {wrong}")
    return keys


def _check(kind: str, via: str, host: str, api_url: str) -> None:
    if kind not in admin.PROVIDER_KINDS:
        raise Refused(f"{kind}: no kind of provider; one of {', '.join(admin.PROVIDER_KINDS)}")
    if via == "smtp" and not host:
        raise Refused("--host: an SMTP provider needs one")
    parts = urlsplit(api_url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if api_url and not (parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and local))):
        raise Refused(f"{api_url}: not an https URL; an API's key travels there")
    if parts.username or parts.query or parts.fragment:
        raise Refused(f"{api_url}: credentials, ? and # have no place here")
