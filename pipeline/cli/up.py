"""`mailfold up`: run the whole stack on this machine until Ctrl-C; the first start creates what sending needs."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline import admin
from pipeline.cli.context import console
from pipeline.devstack.role_counts import ROLES, default_counts, process_names, role_of
from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.servers.data_dir import DataDir
from pipeline.devstack.supervisor import Stack
from pipeline.errors import Refused
from pipeline.runtime.environment import load_settings
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.runtime.private_files import replace_file
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings

app = typer.Typer()

TENANT = "default"
API_KEY_FILE = "api-key"
API_KEY_HEADER_FILE = "api-key.header"
"""The key as a header, for `curl -H @FILE`: an argument could be read by every user of the machine."""
EXAMPLE_BATCH_FILE = Path(__file__).with_name("example.json")


COUNT_HELP = "Processes of this role; the default follows from the number of CPU cores."
ProcessCount = Annotated[int | None, typer.Option(min=1, max=64, help=COUNT_HELP, show_default=False)]


@app.command()
def up(
    workers: ProcessCount = None,
    dispatchers: ProcessCount = None,
    projectors: ProcessCount = None,
    emitters: ProcessCount = None,
) -> None:
    """Start the whole stack on this machine and restart what dies; Ctrl-C stops it, the next `up` continues."""
    settings = load_settings()
    counts = default_counts(os.cpu_count() or 1, settings.partitions)
    asked = {"worker": workers, "dispatch": dispatchers, "project": projectors, "emit": emitters}
    counts |= {role: count for role, count in asked.items() if count is not None}
    for role in ("worker", "project"):
        if counts[role] > settings.partitions:
            raise Refused(
                f"{counts[role]} processes of {role}: only {settings.partitions} would have work, one for each "
                "partition (MAILFOLD_PARTITIONS)"
            )
    asyncio.run(_up(_with_everything(settings), process_names(counts)))


def _with_everything(settings: Settings) -> Settings:
    """Return the settings with the listener for bounced mail and the console, unless the operator set these."""
    wanted = {"inbound_host": settings.host, "console": True}
    update = {name: value for name, value in wanted.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=update)


async def _up(settings: Settings, processes: Sequence[str]) -> None:
    stopping = _cancel_on_signals()
    with contextlib.suppress(asyncio.CancelledError):
        async with Stack(settings, processes, tell=print_line, prepare=create_defaults) as stack:
            _print_welcome(stack)
            await asyncio.Event().wait()
    if stopping.is_set():
        print_line("stopped; the next `mailfold up` continues where this one ended")


def _cancel_on_signals() -> asyncio.Event:
    """Cancel the calling task on the first signal, which also sets the returned event.

    Later signals are ignored, because the stack takes seconds to stop and must finish.
    """
    stopping, task = asyncio.Event(), asyncio.current_task()

    def stop() -> None:
        if not stopping.is_set() and task is not None:
            stopping.set()
            print_line("stopping")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopping


async def create_defaults(settings: Settings) -> None:
    """Create what sending needs: a tenant, its key, and the sandbox as the provider of every brand.

    Leave what an operator has changed since as it is. A tenant that an operator deleted does not come back.
    """
    async with open_database(settings, size=1) as pool:
        await _update_sandbox_provider(pool, settings)
        async with pool.connection() as connection:
            was_deleted = await admin.is_deleted(connection, TENANT)
        if was_deleted:
            for name in (API_KEY_FILE, API_KEY_HEADER_FILE):
                DataDir(settings.data_dir).write_secret(name, "")
            return
        if TENANT not in {row[0] for row in await admin.fetch_rows(pool, "list_tenants")}:
            must_verify = await admin.has_other_tenants(pool, TENANT)
            await admin.add_tenant(pool, admin.Tenant(TENANT, verified_senders=must_verify))
        await _create_key(pool, DataDir(settings.data_dir))
        if (TENANT, "*") not in {row[:2] for row in await admin.fetch_rows(pool, "list_brands")}:
            await admin.add_brand(pool, admin.Brand(TENANT, "*", settings.sandbox_provider))


async def _create_key(pool: Pool, data_dir: DataDir) -> None:
    """Create an API key and store it in the data folder, unless the one that is there is valid."""
    stored = data_dir.read_secret(API_KEY_FILE)
    if not stored or await admin.find_key(pool, stored) is None:
        stored = data_dir.write_secret(API_KEY_FILE, await admin.add_key(pool, TENANT, made_by="mailfold up"))
    data_dir.write_secret(API_KEY_HEADER_FILE, f"X-Api-Key: {stored}")


async def _update_sandbox_provider(pool: Pool, settings: Settings) -> None:
    """Store the sandbox as a provider, with its present ports and key, which belong to the data folder.

    A provider of that name and another kind is an operator's, and stays as it is.
    """
    name, ring = settings.sandbox_provider, secret_ring(settings)
    row = admin.Provider(
        name,
        settings.sandbox_host,
        settings.sandbox_smtp_port,
        kind="sandbox",
        webhook_keys=(public_key(settings.data_dir),),
    )
    existing = {provider.provider: provider for provider in await admin.list_providers(pool, ring)}.get(name)
    if existing is None or existing.kind == "sandbox":
        await admin.add_provider(pool, row, ring)


def print_line(line: str) -> None:
    """Print a line with the time. Ignore errors, because a closed terminal must not stop the stack."""
    with contextlib.suppress(OSError):
        console().print(f"[dim]{time.strftime('%H:%M:%S')}[/dim]  {escape(line)}")


def _print_welcome(stack: Stack) -> None:
    settings, data_dir = stack.settings, stack.data_dir
    gateway = f"http://{settings.host}:{settings.port}"
    sandbox = f"http://{settings.sandbox_host}:{settings.sandbox_http_port}/"
    api_key = data_dir.read_secret(API_KEY_FILE)
    lines: list[str] = []
    for name, value in (
        ("Console", f"[bold]{url}[/]   sign in with the API key" if (url := console_url(settings)) else "disabled"),
        (
            "API key",
            f"[bold green]{escape(api_key)}[/]   header X-Api-Key, tenant {TENANT}"
            if api_key
            else f"none: tenant {TENANT} was deleted; `mailfold keys add` makes one for another",
        ),
        ("Send", f"POST {gateway}/channels/email/batch"),
        ("History", f"GET  {gateway}/v1/Email/"),
        ("API docs", f"{gateway}/docs"),
        ("Metrics", _ops_endpoints(stack)),
        ("Sandbox", f"inbox {sandbox}   SMTP {settings.sandbox_host}:{settings.sandbox_smtp_port}"),
        ("Bounces", f"SMTP {settings.inbound_host}:{settings.inbound_port}" if settings.inbound_host else "disabled"),
        ("Kafka", settings.kafka_bootstrap),
        ("Postgres", _postgres_access(settings, data_dir.root)),
        ("Logs", str(data_dir.root / "logs")),
    ):
        lines.append(f"[bold]{name:<10}[/]{value}")
    with contextlib.suppress(OSError):
        console().print("\n[bold]Mailfold is up.[/]\n")
        console().print("\n".join(lines))
        if api_key:
            console().print(f"\n[dim]Try:[/] {escape(_first_email_command(gateway, data_dir))}")
        console().print("\nCtrl-C stops everything; the next `mailfold up` continues where it stopped.\n")


def console_url(settings: Settings) -> str:
    """Return where the console is served; empty if it is not."""
    if not settings.console:
        return ""
    if settings.console_port:
        return f"http://{settings.console_host}:{settings.console_port}/"
    return f"http://{settings.host}:{settings.port}/console"


def _ops_endpoints(stack: Stack) -> str:
    """Return where each process serves its metrics and health."""
    settings = stack.settings
    if not settings.ops_host:
        return "disabled"
    chosen = stack.data_dir.ports()
    ports = ", ".join(
        f"{name} {settings.ops_port(name) if name in ROLES else chosen[name]}"
        for name in stack.processes
        if role_of(name) != "sandbox"
    )
    return f"http://{settings.ops_host}:PORT/metrics, /healthz and /readyz, with PORT {ports}"


def _postgres_access(settings: Settings, root: Path) -> str:
    """Return the address of Postgres, and for the embedded server its user and the file of its password."""
    address = settings.database_url.get_secret_value().rpartition("@")[2]
    password_file = root / "postgres" / "password"
    return f"{address}   user postgres, password in {password_file}" if password_file.exists() else address


def _first_email_command(gateway: str, data_dir: DataDir) -> str:
    """Return a shell command that sends a first email to the sandbox, which opens it and clicks its link."""
    header, example = data_dir.root / API_KEY_HEADER_FILE, data_dir.root / "example.json"
    if not example.exists():
        replace_file(example, EXAMPLE_BATCH_FILE.read_bytes())
    post = f"curl {gateway}/channels/email/batch -H 'Content-Type: application/json'"
    return f"{post} -H @'{header}' -d @'{example}'; mailfold trace first"
