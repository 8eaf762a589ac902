"""Check what operators have set up: tenants, brands, providers with their credentials and webhooks, destinations."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from pipeline import admin
from pipeline.admin import Provider
from pipeline.dispatch.transports.registry import configuration_problem
from pipeline.errors import DatabaseUnavailable, InvalidSettings, NotFound, SchemaMismatch
from pipeline.operations.checks.webhook import SQL as WEBHOOKS
from pipeline.operations.checks.webhook_keys import webhook_key_problem
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, skip, warn
from pipeline.operations.pending import format_duration
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from pipeline.webhooks.providers.registry import adapter_for

WAITING_MAIL_WARNING: Final = timedelta(days=3)
WAITING_MAIL_FAILURE: Final = timedelta(days=5)
"""Age of a suspended tenant's oldest email; its content is kept for seven days."""


async def check_setup(settings: Settings) -> AsyncIterator[DoctorFinding]:
    """Yield the findings about what is set up in the database; the check of Postgres says why it can't be asked."""
    try:
        async with open_database(settings, size=1) as pool:
            async for finding in _check_tables(pool, settings):
                yield finding
    except (DatabaseUnavailable, SchemaMismatch, InvalidSettings):
        yield skip("not checked without Postgres and its schema")


async def _check_tables(pool: Pool, settings: Settings) -> AsyncIterator[DoctorFinding]:
    async for finding in _check_senders(pool):
        yield finding
    for name, *_ in await admin.fetch_rows(pool, "providers"):
        async for finding in _check_provider(name, pool, settings):
            yield finding
    for tenant, brand, destination, *_ in await admin.fetch_rows(pool, "list_destinations"):
        if admin.is_unencrypted_url(destination):
            yield warn(f"destination {tenant}/{brand}: its key is sent over plain http", "use an https URL")


async def _check_senders(pool: Pool) -> AsyncIterator[DoctorFinding]:
    tenants = await admin.fetch_rows(pool, "list_tenants")
    brands = await admin.fetch_rows(pool, "list_brands")
    if not tenants:
        yield warn("there is no tenant: nobody can send", "`mailfold tenants add`, then `mailfold keys add`")
    if not brands:
        yield warn("there is no brand: nothing can be sent", "`mailfold brands add`")
    if tenants and brands:
        yield ok(f"{len(tenants)} tenants, {len(brands)} brands")
    for tenant in [row[0] for row in tenants if row[3] is not None]:
        oldest_at = (await admin.get_waiting_mail(pool, tenant)).oldest_at
        if oldest_at is not None and (age := datetime.now(UTC) - oldest_at) >= WAITING_MAIL_WARNING:
            find = fail if age >= WAITING_MAIL_FAILURE else warn
            yield find(
                f"tenant {tenant} is suspended, and mail that waits was accepted {_ago(oldest_at)}: "
                f"after {admin.CONTENT_RETENTION.days} days it is lost",
                f"`mailfold tenants resume {tenant}`, or delete the tenant",
            )
    async for finding in _check_sender_domains(pool, [(row[0], row[4]) for row in tenants]):
        yield finding


async def _check_sender_domains(pool: Pool, tenants: Sequence[tuple[str, bool]]) -> AsyncIterator[DoctorFinding]:
    """Yield which tenants may send as others, and which can't send; ``tenants``: each with whether it must verify."""
    for tenant, must_verify in tenants:
        if not must_verify and len(tenants) > 1:
            yield warn(
                f"tenant {tenant} may send from any domain, other tenants' too",
                f"`mailfold domains add` its domains, then `mailfold domains enforce --tenant {tenant}`",
            )
        if not must_verify:
            continue
        rules = await admin.get_sender_rules(pool, tenant)
        if not rules.domains_by_brand:
            yield warn(f"tenant {tenant} has no verified domain to send from", "`mailfold domains add`")
        elif refused := [brand for brand in sorted(rules.senders_by_brand) if rules.problem(brand, None)]:
            yield warn(
                f"tenant {tenant}: these brands' senders are of domains that are not verified: {', '.join(refused)}",
                "`mailfold domains verify`, or give the brands other senders",
            )


async def _check_provider(name: str, pool: Pool, settings: Settings) -> AsyncIterator[DoctorFinding]:
    try:
        provider = await admin.get_provider(pool, name, secret_ring(settings))
    except InvalidSettings as error:
        yield fail(
            f"provider {name}: {error}",
            "list the secret that `providers add` had in MAILFOLD_SECRETS, or add the provider again",
        )
        return
    if problem := configuration_problem(provider) or _missing_password(provider):
        yield fail(f"provider {name}: {problem}", "`mailfold providers add`")
    async for finding in _check_webhook(provider, pool):
        yield finding


def _missing_password(provider: Provider) -> str:
    return f"user {provider.username} without a password" if provider.username and not provider.password else ""


async def _check_webhook(provider: Provider, pool: Pool) -> AsyncIterator[DoctorFinding]:
    """Yield when the provider's webhooks were last accepted, unless its kind sends none."""
    try:
        adapter_for(provider.kind)
    except NotFound:
        yield ok(f"provider {provider.provider}: {provider.kind} sends no webhooks; bounces come by mail")
        return
    name, check = provider.provider, f"`mailfold providers check {provider.provider}`"
    if not provider.webhook_keys:
        yield fail(f"provider {name}: no webhook key, its webhooks are refused", f"`mailfold providers rotate {name}`")
    for problem in filter(None, (webhook_key_problem(provider.kind, key) for key in provider.webhook_keys)):
        yield fail(f"provider {name}: a webhook key can verify nothing: {problem}", check)
    async with pool.connection() as connection:
        rows = await (await connection.execute(WEBHOOKS["last_heard"], (name,))).fetchall()
    last = {outcome: at for outcome, at, _ in rows}
    if "refused" in last and ("taken" not in last or last["refused"] > last["taken"]):
        yield warn(f"provider {name}: its last webhook was refused {_ago(last['refused'])}", check)
    if "taken" in last:
        yield ok(f"provider {name}: its last webhook came {_ago(last['taken'])}")
    else:
        yield warn(f"provider {name}: no webhook ever came", check)


def _ago(at: datetime) -> str:
    return f"{format_duration(int((datetime.now(UTC) - at).total_seconds() * 1000))} ago"
