"""`mailfold sandbox|receiver|demo`: stand-ins for the provider and for Fast Track, and the demo that uses both."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import typer
from rich.console import Console

from pipeline.errors import InvalidSettings
from pipeline.runtime.bootstrap import fresh_id, wall_clock
from pipeline.runtime.environment import load_settings
from pipeline.runtime.observing.logs import configure_logging
from pipeline.runtime.observing.watchdog import watch_event_loop
from pipeline.settings import Settings

app = typer.Typer()

PIPE_WIDTH_COLUMNS: Final = 140


@app.command()
def sandbox(
    smtp_port: Annotated[int | None, typer.Option(help="Its SMTP port; 0 chooses a free one. [2525]")] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of its inbox and API; 0 chooses a free one. [2580]")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(help="URL of the gateway that gets its webhooks. [http://127.0.0.1:8025]")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Messages it keeps. [1000]")] = None,
    pace: Annotated[float | None, typer.Option(help="Seconds between delivered, open, click… [0.2]")] = None,
) -> None:
    """Run an email provider for development: it takes SMTP, answers by address pattern and sends signed webhooks."""
    options = {
        "sandbox_smtp_port": smtp_port,
        "sandbox_http_port": http_port,
        "sandbox_gateway": gateway,
        "sandbox_keep": keep,
        "sandbox_pace": pace,
    }
    settings = load_settings(**{name: value for name, value in options.items() if value is not None})
    configure_logging(settings, "sandbox")
    asyncio.run(_until_stopped(lambda stop: _sandbox(settings, stop)))


@app.command()
def receiver(
    key: Annotated[str, typer.Option(envvar="MAILFOLD_RECEIVER_KEY", help="The X-API-KEY that it requires.")],
    port: Annotated[int, typer.Option(help="Its port; 0 chooses a free one.")] = 8026,
    brand: Annotated[str, typer.Option(help="Its path: /BRAND/email/conversion.")] = "fasttrack",
) -> None:
    """Run a stand-in for Fast Track for development: it accepts conversions and prints each as it arrives."""
    asyncio.run(_until_stopped(lambda stop: _receiver(key, port, brand, stop)))


@app.command()
def demo(
    withhold: Annotated[str, typer.Option(hidden=True, help="Tests only: a word that the receiver refuses.")] = "",
    patience: Annotated[float, typer.Option(hidden=True, help="Seconds to wait for conversions and events.")] = 45.0,
    stay: Annotated[
        bool, typer.Option(help="Keep the stack running at the end, to look at it in the console.")
    ] = False,
) -> None:
    """Send 118 emails of two brands through a stack of its own, show each step, and exit 0 if all is right."""
    from pipeline.devstack.demo import run  # noqa: PLC0415  it imports the whole stack, which takes time

    console = Console(highlight=False)
    if not console.is_terminal:
        # A file or a pipe has no width, and the default of 80 columns would cut lines off.
        console = Console(highlight=False, width=PIPE_WIDTH_COLUMNS)
    raise typer.Exit(run.run(console, withhold, patience, stays=stay))


async def _sandbox(settings: Settings, stop: asyncio.Event) -> None:
    from pipeline.devstack.sandbox import keys, server  # noqa: PLC0415  only this command needs aiosmtpd

    async with server.open_sandbox(settings, clock=wall_clock, new_id=fresh_id) as running:
        host = settings.sandbox_host
        typer.echo(f"SMTP      {host}:{running.smtp_port}")
        typer.echo(f"inbox     http://{host}:{running.http_port}/")
        typer.echo(f"webhooks  {running.webhooks}")
        typer.echo(f"key       {keys.public_key(settings.data_dir)}")
        with watch_event_loop("sandbox"):
            await stop.wait()


async def _receiver(key: str, port: int, brand: str, stop: asyncio.Event) -> None:
    from pipeline.devstack.demo.receiver import ConversionReceiver, serve_receiver  # noqa: PLC0415  only this command

    if not key:
        raise InvalidSettings("MAILFOLD_RECEIVER_KEY: empty; the receiver must check the key, as Fast Track does")
    fast_track = ConversionReceiver({brand: key}, on_conversion=typer.echo)
    async with serve_receiver(fast_track, "127.0.0.1", port) as listening:
        typer.echo(f"destination  http://127.0.0.1:{listening}/{brand}")
        await stop.wait()


async def _until_stopped(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    await work(stop)
