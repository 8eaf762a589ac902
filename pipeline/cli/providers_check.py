"""`mailfold providers check`: test a provider's credentials and its webhook, and say what to do."""

from collections.abc import AsyncIterator
from typing import Final

import typer
from rich.markup import escape

from pipeline import admin
from pipeline.cli import providers
from pipeline.cli.context import console, run_with_pool
from pipeline.operations.checks.finding import Finding
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings

app = providers.app
"""The commands of `mailfold providers`, to which this module adds `check`."""

_VERDICT_LABELS: Final = {"right": "[green]right[/]", "wrong": "[red]wrong[/]", "note": "[yellow]note [/]"}


@app.command("check")
def check(provider: str) -> None:
    """Test credentials and the webhook's round trip, without sending mail; exit 1 where something is wrong."""

    async def work(pool: Pool, settings: Settings) -> bool:
        row = await admin.get_provider(pool, provider, secret_ring(settings))
        is_right = True
        async for finding in _findings(row, pool, settings):
            _print_finding(finding)
            is_right = is_right and finding.verdict != "wrong"
        return is_right

    if not run_with_pool(work):
        raise typer.Exit(1)


async def _findings(row: admin.Provider, pool: Pool, settings: Settings) -> AsyncIterator[Finding]:
    from pipeline.operations.checks import sending, webhook  # noqa: PLC0415  only this command needs aiohttp

    for finding in await sending.check(row, settings):
        yield finding
    async for finding in webhook.check(row, pool, settings):
        yield finding


def _print_finding(finding: Finding) -> None:
    console().print(f"{_VERDICT_LABELS[finding.verdict]}  {escape(finding.text)}", highlight=False)
    if finding.todo:
        console().print(f"       [dim]→ {escape(finding.todo)}[/]", highlight=False)
