"""`mailfold inbound maildir DIR`: append the messages that a mail server put into a maildir to the log."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.context import console, run_with_kafka
from pipeline.errors import LogUnavailable
from pipeline.gateway.smtp.maildir import Maildir
from pipeline.runtime.bootstrap import wall_clock
from pipeline.runtime.kafka.log import open_kafka_log
from pipeline.runtime.secrets.secret_ring import has_secret, secret_ring
from pipeline.runtime.sleep import sleep_unless
from pipeline.settings import Settings
from pipeline.webhooks.token_readers import token_readers

app = typer.Typer(no_args_is_help=True, help="Read bounced and other inbound mail.")


@app.callback()
def inbound() -> None:
    """Read bounced and other inbound mail."""


@app.command()
def maildir(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The maildir; messages move from DIR/new to DIR/cur.")],
    follow: Annotated[float, typer.Option(help="Seconds between sweeps, until Ctrl-C; 0 sweeps once.")] = 0.0,
) -> None:
    """Append each new message of a maildir to the log, then move it to `cur`; a repeat changes nothing."""
    run_with_kafka(lambda settings: _sweep(settings, folder, follow))


async def _sweep(settings: Settings, folder: Path, follow: float) -> None:
    stop = asyncio.Event()
    # With --follow, a signal ends the command after the present sweep; a single sweep is cancelled at once.
    for number in (signal.SIGINT, signal.SIGTERM) if follow else ():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_kafka_log(settings) as log:
        # A mail server's machine may have no secret; then only the worker verifies the tokens in addresses.
        readers = token_readers(secret_ring(settings)) if has_secret(settings) else None
        maildir = Maildir(folder, log, wall_clock, readers)
        while True:
            swept = await maildir.sweep()
            if swept.taken or swept.foreign or not follow:
                foreign = f", {swept.foreign} not about our mail put aside" if swept.foreign else ""
                console().print(f"{swept.taken} taken{foreign}")
            if not follow and swept.unconfirmed:
                raise LogUnavailable(
                    f"{swept.unconfirmed} stay in {folder / 'new'}: the log did not confirm them in time"
                )
            if not follow or stop.is_set():
                return
            await sleep_unless(stop, follow)
