"""Run commands with the servers of the environment or of a running `mailfold up`; all command files use it.

It also holds the helpers with which commands print lists and read credentials.
"""

import asyncio
import getpass
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from pipeline.admin.actions import ActionRecorder
from pipeline.devstack.servers import postgres
from pipeline.devstack.servers.data_dir import DataDir, is_port_taken
from pipeline.devstack.supervisor import OPS_PORT_SETTINGS
from pipeline.errors import DatabaseUnavailable, InvalidSettings, Refused
from pipeline.runtime.bootstrap import Runtime, fresh_id, open_runtime, wall_clock
from pipeline.runtime.environment import load_settings
from pipeline.runtime.kafka.log import open_kafka_log
from pipeline.runtime.postgres.conninfo import first_line
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, Pool
from pipeline.runtime.private_files import open_private
from pipeline.runtime.secrets.secret_fingerprints import open_checked_database
from pipeline.runtime.secrets.secret_ring import has_secret
from pipeline.settings import Settings

T = TypeVar("T")
CREDENTIAL_SOURCE_HELP: Final = (
    "the NAME of an environment variable that holds it, or - to read a line of standard input; else you are prompted"
)
"""The part of an option's help that says how to pass a credential."""
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; `mailfold actions` shows it. It must contain no address.")
]
_MISSING_SERVER_HINT: Final = "set it, or start `mailfold up`"

STDIN: Final = "-"
"""The file name that stands for standard input or output."""
TERMINATED_EXIT_CODE: Final = 128 + signal.SIGTERM
PIPE_WIDTH_COLUMNS: Final = 200


def console() -> Console:
    """Return a console on standard output. A pipe gets a fixed width, so that a list's row stays on one line."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH_COLUMNS)


def command_settings() -> Settings:
    """Return the environment's settings, completed from the stack that runs in the data folder.

    Taken from the stack are the URL of Postgres, the address of Kafka, the secret and the roles' own ports, where they
    are not set.
    """
    settings = load_settings()
    data_dir = DataDir(settings.data_dir)
    update: dict[str, Any] = {"data_dir": data_dir.root}
    if not settings.database_url.get_secret_value():
        port = _port_of_running(data_dir, "postgres")
        update |= postgres.settings_of(postgres.url(data_dir.root / "postgres", port) if port else "")
    if not settings.kafka_bootstrap and (port := _port_of_running(data_dir, "kafka")):
        settings = settings.with_embedded_kafka(f"127.0.0.1:{port}")
    if not has_secret(settings):
        update["secret"] = SecretStr(data_dir.read_secret("secret"))
    for name in OPS_PORT_SETTINGS:
        if name not in settings.model_fields_set and (port := _port_of_running(data_dir, name)):
            update[name] = port
    return settings.model_copy(update=update)


def run_command(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine. Ctrl-C and SIGTERM cancel it, so that it closes what it opened.

    Raise KeyboardInterrupt after Ctrl-C, which `main` turns into exit code 130; exit with 143 after SIGTERM. Raise
    DatabaseUnavailable where Postgres fails meanwhile.
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
    except DATABASE_UNAVAILABLE_ERRORS as error:
        raise DatabaseUnavailable(f"Postgres failed during the command, repeat it: {first_line(error)}") from error


def run_with_runtime(work: Callable[[Runtime], Awaitable[T]]) -> T:
    """Run ``work`` with Kafka and Postgres, as :func:`command_settings` finds them, and log errors only."""
    settings = command_settings().model_copy(update={"log_level": "ERROR"})

    async def main() -> T:
        async with open_runtime(settings, signals=False) as rt:
            return await work(rt)

    return run_command(main())


def run_change(work: Callable[[Runtime, ActionRecorder], Awaitable[T]]) -> T:
    """Run ``work``, which changes something, with Kafka and Postgres and the recorder of this user's changes.

    Raise ActionNotRecorded where a change can't be recorded; it is not made then.
    """
    return run_with_runtime(lambda rt: work(rt, ActionRecorder(rt.log, rt.clock, rt.new_id, _actor())))


def run_change_with_log(work: Callable[[Settings, ActionRecorder], Awaitable[T]]) -> T:
    """Run ``work`` as :func:`run_change` does, but without Postgres, which would check this process's secrets."""

    async def main(settings: Settings) -> T:
        async with open_kafka_log(settings) as log:
            return await work(settings, ActionRecorder(log, wall_clock, fresh_id, _actor()))

    return run_with_kafka(main)


def operating_user() -> str:
    """Return the user who runs this command, and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"
    return f"{user}@{socket.gethostname()}"


def _actor() -> str:
    return f"cli {operating_user()}"


def run_with_database(work: Callable[[Settings], Awaitable[T]]) -> T:
    """Run ``work`` with settings that name a database. Raise InvalidSettings where there is none."""
    settings = command_settings()
    if not settings.database_url.get_secret_value():
        raise InvalidSettings(
            f"DATABASE_URL: missing, and no stack runs in {settings.data_dir}; {_MISSING_SERVER_HINT}"
        )

    async def main() -> T:
        return await work(settings)

    return run_command(main())


def run_with_pool(work: Callable[[Pool, Settings], Awaitable[T]]) -> T:
    """Run ``work`` with the database that :func:`command_settings` finds. Raise InvalidSettings where there is none."""

    async def with_pool(settings: Settings) -> T:
        async with open_checked_database(settings, size=1, remember=False) as pool:
            return await work(pool, settings)

    return run_with_database(with_pool)


def open_output(name: str) -> BinaryIO:
    """Open standard output, or a new file that only its owner can read. Raise Refused."""
    if name == STDIN:
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    try:
        return os.fdopen(open_private(Path(name), os.O_WRONLY | os.O_EXCL), "wb")
    except OSError as error:
        raise Refused(f"{name}: {error.strerror}") from None


def table(*columns: str) -> Table:
    """Return an empty table with these column headers."""
    listing = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        listing.add_column(column, overflow="fold")
    return listing


def cell(value: object) -> str:
    """Return the text of a table's cell; None is an empty one."""
    return "" if value is None else str(value)


def minute(at: datetime | None) -> str:
    """Return a time in UTC to the minute; None is an empty text."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def read_credential(what: str, source: str) -> str:
    """Return the credential from its source: `-` for standard input, a variable's name, or empty for a prompt.

    It is never an argument, which every user of the machine could read in `ps`. Raise InvalidSettings where the source
    is empty.
    """
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
    """Run ``work`` with settings that name a Kafka cluster. Raise InvalidSettings where there is none."""
    settings = command_settings()
    if not settings.kafka_bootstrap:
        raise InvalidSettings(
            f"KAFKA_BOOTSTRAP: missing, and no stack runs in {settings.data_dir}; {_MISSING_SERVER_HINT}"
        )

    async def main() -> T:
        return await work(settings)

    return run_command(main())


def _port_of_running(data_dir: DataDir, server: str) -> int | None:
    """Return the port of the stack's own server; None where it does not run."""
    port = data_dir.ports().get(server)
    return port if port is not None and is_port_taken("127.0.0.1", port) else None
