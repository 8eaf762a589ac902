"""`mailfold inbound maildir DIR`: what a mail server put into a maildir -> the log."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.context import console, run_with_kafka
from pipeline.errors import LogUnavailable
from pipeline.gateway.smtp.maildir import Maildir
from pipeline.runtime.bootstrap import wall_clock
from pipeline.runtime.kafka import open_kafka_log
from pipeline.runtime.sleep import sleep_unless
from pipeline.settings import Settings
from pipeline.webhooks.proofs import token_readers_of

app = typer.Typer(no_args_is_help=True, help="Take in bounced and other inbound mail.")


@app.callback()
def inbound() -> None:
    """Take in bounced and other inbound mail."""


@app.command()
def maildir(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The maildir: what is in DIR/new goes to DIR/cur.")],
    follow: Annotated[float, typer.Option(help="Look again after so many seconds, until Ctrl-C; 0: once.")] = 0.0,
) -> None:
    """Put each new message of a maildir on the log, then into its `cur`; a repeat changes nothing."""
    run_with_kafka(lambda settings: _sweep(settings, folder, follow))


async def _sweep(settings: Settings, folder: Path, follow: float) -> None:
    stop = asyncio.Event()
    # Following ends between two messages; a single pass ends at once, as every command does.
    for number in (signal.SIGINT, signal.SIGTERM) if follow else ():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_kafka_log(settings) as log:
        # A mail server's machine may have no secret; then the worker alone says whose tag is real.
        ours = token_readers_of(settings) if settings.secret.get_secret_value() else None
        mails = Maildir(folder, log, wall_clock, ours)
        while True:
            swept = await mails.sweep()
            if swept.taken or swept.foreign or not follow:
                foreign = f", {swept.foreign} without anything of ours put aside" if swept.foreign else ""
                console().print(f"{swept.taken} taken{foreign}")
            if not follow and swept.unconfirmed:
                raise LogUnavailable(
                    f"{swept.unconfirmed} stay in {folder / 'new'}: the log did not confirm them in time"
                )
            if not follow or stop.is_set():
                return
            await sleep_unless(stop, follow)
