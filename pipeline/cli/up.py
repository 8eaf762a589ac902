"""`mailfold up`: the whole stack on this machine, furnished the first time, kept alive until Ctrl-C."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import typer
from rich.markup import escape

from pipeline import admin
from pipeline.cli.context import console
from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.servers.data_dir import DataDir
from pipeline.devstack.supervisor import Stack
from pipeline.runtime.database import Pool, open_database
from pipeline.runtime.private_files import replace_file
from pipeline.settings import Settings, load_settings

app = typer.Typer()

TENANT = "default"
API_KEY_FILE = "api-key"
EXAMPLE_BATCH_FILE = Path(__file__).with_name("example.json")


@app.command()
def up() -> None:
    """Start the whole stack on this machine and keep it alive; Ctrl-C stops it, the next `up` goes on."""
    asyncio.run(_up(_hearing(load_settings())))


def _hearing(settings: Settings) -> Settings:
    """With the listener for bounced mail, unless the operator decided about it."""
    given = "inbound_host" in settings.model_fields_set
    return settings if given else settings.model_copy(update={"inbound_host": settings.host})


async def _up(settings: Settings) -> None:
    asked = _cancelled_by_signals()
    with contextlib.suppress(asyncio.CancelledError):
        async with Stack(settings, tell=print_line, prepare=create_defaults) as stack:
            _welcome(stack)
            await asyncio.Event().wait()
    if asked.is_set():
        print_line("stopped; the next `mailfold up` goes on where this one ended")


def _cancelled_by_signals() -> asyncio.Event:
    """The first signal cancels the calling task; later ones change nothing: stopping takes seconds and must finish."""
    asked, task = asyncio.Event(), asyncio.current_task()

    def ask() -> None:
        if not asked.is_set() and task is not None:
            asked.set()
            print_line("stopping")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ask)
    return asked


async def create_defaults(settings: Settings) -> None:
    """What a first `up` needs to be of use: a tenant, its key, and the sandbox behind every brand.

    What an operator has changed since stays as it is.
    """
    async with open_database(settings, size=1) as pool:
        if TENANT not in {row[0] for row in await admin.fetch_rows(pool, "list_tenants")}:
            await admin.add_tenant(pool, admin.Tenant(TENANT))
        await _key(pool, DataDir(settings.data_dir))
        await _sandbox(pool, settings)
        if (TENANT, "*") not in {row[:2] for row in await admin.fetch_rows(pool, "list_brands")}:
            await admin.add_brand(pool, admin.Brand(TENANT, "*", settings.sandbox_provider))


async def _key(pool: Pool, home: DataDir) -> None:
    kept = home.read_secret(API_KEY_FILE)
    if not kept or await admin.tenant_of_key(pool, kept) is None:
        home.write_secret(API_KEY_FILE, await admin.add_key(pool, TENANT, "made by `mailfold up`"))


async def _sandbox(pool: Pool, settings: Settings) -> None:
    """The sandbox's row, as the sandbox is now: its ports and its key belong to the data folder."""
    name, secret = settings.sandbox_provider, settings.secret.get_secret_value()
    wanted = admin.Provider(
        name,
        settings.sandbox_host,
        settings.sandbox_smtp_port,
        kind="sandbox",
        webhook_keys=(public_key(settings.data_dir),),
    )
    found = {provider.provider: provider for provider in await admin.list_providers(pool, secret)}.get(name, wanted)
    if found.kind == "sandbox":
        await admin.add_provider(pool, wanted, secret)


def print_line(line: str) -> None:
    """One line for whoever watches, with the time. A terminal that is gone must not end the stack."""
    with contextlib.suppress(OSError):
        console().print(f"[dim]{time.strftime('%H:%M:%S')}[/dim]  {escape(line)}")


def _welcome(stack: Stack) -> None:
    settings, home = stack.settings, stack.data_dir
    gateway = f"http://{settings.host}:{settings.port}"
    sandbox = f"http://{settings.sandbox_host}:{settings.sandbox_http_port}/"
    shown: list[str] = []
    for name, value in (
        ("API key", f"[bold green]{escape(home.read_secret(API_KEY_FILE))}[/]   header X-Api-Key, tenant {TENANT}"),
        ("Send", f"POST {gateway}/channels/email/batch"),
        ("History", f"GET  {gateway}/v1/Email/"),
        ("API docs", f"{gateway}/docs"),
        ("Metrics", f"{gateway}/metrics"),
        ("Sandbox", f"inbox {sandbox}   SMTP {settings.sandbox_host}:{settings.sandbox_smtp_port}"),
        ("Bounces", f"SMTP {settings.inbound_host}:{settings.inbound_port}" if settings.inbound_host else "not taken"),
        ("Kafka", settings.kafka_bootstrap),
        ("Postgres", _postgres(settings, home.root)),
        ("Logs", str(home.root / "logs")),
    ):
        shown.append(f"[bold]{name:<10}[/]{value}")
    with contextlib.suppress(OSError):
        console().print("\n[bold]Mailfold is up.[/]\n")
        console().print("\n".join(shown))
        console().print(f"\n[dim]Try:[/] {escape(_first_mail(gateway, home))}")
        console().print("\nCtrl-C stops everything; the next `mailfold up` goes on where it stopped.\n")


def _postgres(settings: Settings, root: Path) -> str:
    address = settings.database_url.get_secret_value().rpartition("@")[2]
    kept = root / "postgres" / "password"
    return f"{address}   user postgres, password in {kept}" if kept.exists() else address


def _first_mail(gateway: str, home: DataDir) -> str:
    """The line that sends a first email: to the sandbox, which opens it and clicks its link."""
    key, example = home.root / API_KEY_FILE, home.root / "example.json"
    if not example.exists():
        replace_file(example, EXAMPLE_BATCH_FILE.read_bytes())
    post = f"curl {gateway}/channels/email/batch -H 'Content-Type: application/json'"
    return f"{post} -H \"X-Api-Key: $(cat '{key}')\" -d @'{example}'; mailfold trace first"
