"""The environment in; the settings that a command at the same machine as `mailfold up` works with, out."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from pipeline.devstack.servers import postgres
from pipeline.devstack.servers.data_dir import DataDir, is_port_taken
from pipeline.errors import InvalidSettings
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.database import Pool, open_database
from pipeline.settings import Settings, load_settings

T = TypeVar("T")
MIN_SECRET_CHARS: Final = 32
CREDENTIAL_SOURCE_HELP: Final = (
    "the NAME of an environment variable that holds it, or - to read a line of standard input; else it is asked for"
)
"""Where a command takes a credential from, for its help."""
_MISSING_SERVER_HINT: Final = "set it, or start `mailfold up`"

TERMINATED_EXIT_CODE: Final = 128 + signal.SIGTERM
PIPE_WIDTH_COLUMNS: Final = 200


def console() -> Console:
    """Where people look. A pipe has no width of its own, so that listings stay one row a line."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH_COLUMNS)


def command_settings() -> Settings:
    """The environment's settings; what it leaves open is taken from the stack that runs in the data folder."""
    given = load_settings()
    home = DataDir(given.data_dir)
    update: dict[str, Any] = {"data_dir": home.root}
    if not given.database_url.get_secret_value():
        port = _runs(home, "postgres")
        update["database_url"] = SecretStr(postgres.url(home.root / "postgres", port) if port else "")
    if not given.kafka_bootstrap and (port := _runs(home, "kafka")):
        update["kafka_bootstrap"] = f"127.0.0.1:{port}"
    if not given.secret.get_secret_value():
        update["secret"] = SecretStr(home.read_secret("secret"))
    return given.model_copy(update=update)


def run_command(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine. Ctrl-C and SIGTERM cancel it, so that it closes what it opened.

    Raise KeyboardInterrupt after Ctrl-C, which `main` turns into exit code 130; exit with 143 after SIGTERM.
    """
    terminated = False

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await main

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        if terminated:
            sys.exit(TERMINATED_EXIT_CODE)
        raise


def run_with_runtime(work: Callable[[Runtime], Awaitable[T]]) -> T:
    """Run ``work`` on the servers of the environment or of the stack that runs here; only errors are logged."""
    quiet = command_settings().model_copy(update={"log_level": "ERROR"})

    async def main() -> T:
        async with open_runtime(quiet, signals=False) as rt:
            return await work(rt)

    return run_command(main())


def run_with_pool(work: Callable[[Pool, Settings], Awaitable[T]]) -> T:
    """Run ``work`` on the database that :func:`settings` names."""
    found = command_settings()
    if not found.database_url.get_secret_value():
        raise InvalidSettings(f"DATABASE_URL: missing, and no stack runs in {found.data_dir}; {_MISSING_SERVER_HINT}")

    async def main() -> T:
        async with open_database(found, size=1) as pool:
            return await work(pool, found)

    return run_command(main())


def secret_of(found: Settings) -> str:
    """The secret that seals credentials. Raises BadSettings for none or a short one."""
    secret = found.secret.get_secret_value()
    if len(secret) < MIN_SECRET_CHARS:
        raise InvalidSettings(f"MAILFOLD_SECRET: at least {MIN_SECRET_CHARS} characters; the same for every role")
    return secret


def table(*columns: str) -> Table:
    """An empty listing."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def cell(value: object) -> str:
    """A listing's cell."""
    return "" if value is None else str(value)


def read_credential(what: str, source: str) -> str:
    """A credential that never stands in an argument, where every user of the machine could read it in `ps`."""
    if source == "-":
        value = sys.stdin.readline().strip()
    elif source:
        value = os.environ.get(source, "")
    elif sys.stdin.isatty():
        value = typer.prompt(what, hide_input=True)
    else:
        raise InvalidSettings(f"{what}: name the environment variable that holds it, or - for standard input")
    if not value:
        raise InvalidSettings(f"{what}: {'standard input' if source in ('', '-') else source} is empty")
    return value


def run_with_kafka(work: Callable[[Settings], Awaitable[T]]) -> T:
    """Run ``work`` with settings that name a Kafka. Raises BadSettings where there is none to name."""
    found = command_settings()
    if not found.kafka_bootstrap:
        raise InvalidSettings(
            f"KAFKA_BOOTSTRAP: missing, and no stack runs in {found.data_dir}; {_MISSING_SERVER_HINT}"
        )

    async def main() -> T:
        return await work(found)

    return run_command(main())


def _runs(home: DataDir, server: str) -> int | None:
    """The port of the stack's own server, if it is there."""
    port = home.ports().get(server)
    return port if port is not None and is_port_taken("127.0.0.1", port) else None
