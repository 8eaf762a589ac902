"""`mailfold gateway|worker|dispatch|project|emit`: run one role in this process, as production does."""

import asyncio
import contextlib
import importlib

import typer

from pipeline.errors import RoleStopped
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.environment import load_settings

app = typer.Typer()

POOL_MAX_CONNECTIONS = 6


def run_role(role: str) -> None:
    """Run a role, by the function `run` of its package's `main`, until SIGTERM or SIGINT."""
    import uvloop  # noqa: PLC0415  only roles serve so many sockets, a third faster than with asyncio's loop

    async def main() -> None:
        async with open_runtime(load_settings(), pool_size=POOL_MAX_CONNECTIONS, role=role) as rt:
            await importlib.import_module(f"pipeline.{role}.main").run(rt)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(RoleStopped):
        runner.run(main())


@app.command()
def gateway() -> None:
    """Accept send requests, webhooks, opens and clicks; serve emails' history."""
    run_role("gateway")


@app.command()
def worker() -> None:
    """Normalize webhooks and fold facts into one state per email (Faust)."""
    from pipeline.worker.main import main  # noqa: PLC0415  Faust is slow to import, and only this role needs it

    main(load_settings())


@app.command()
def dispatch() -> None:
    """Send each email through its provider, once, with retries on a schedule that survives restarts."""
    run_role("dispatch")


@app.command()
def project() -> None:
    """Write email-changes into Postgres: history, versions, timeline, suppressions, owed conversions."""
    run_role("project")


@app.command()
def emit() -> None:
    """Send Fast Track every conversion that is owed, in order, until it is settled."""
    run_role("emit")
