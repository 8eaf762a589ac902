"""Runs a flow until SIGTERM or a crash, without Faust's command line and without its web server."""

import asyncio
import logging
import os
import threading
from typing import Any, Final

import faust

from pipeline.worker.streaming.app import WorkerFlow

SHUTDOWN_TIMEOUT_S: Final = 7.0
"""Seconds for an orderly end, of the ten that a role has after SIGTERM."""

_log = logging.getLogger("mailfold.worker")


async def _say_ready(app: Any, **_: Any) -> None:
    numbers = sorted({tp.partition for tp in app.consumer.assignment()})
    _log.info("ready; partitions: %s", ", ".join(map(str, numbers)) or "none yet")


def _give_up(app: Any) -> None:
    """Faust waits for ever where the group is just being rebalanced or the brokers are silent.

    Nothing is lost by ending at once: what is written is committed with its offsets, the rest is
    fetched again.
    """
    _log.warning("no orderly end within %s s; ending at once, what is in hand is done again", SHUTDOWN_TIMEOUT_S)
    os._exit(1 if app.crashed else 0)


async def _bound_the_end(worker: Any) -> None:
    """From the moment that somebody wants us to end, by a signal or a crash, the end is near."""
    app = worker.app
    ends = (worker._stopped, worker._crashed, app._stopped, app._crashed)
    tasks = [asyncio.ensure_future(end.wait()) for end in ends]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    # A thread's clock, because the loop may be what is stuck; a daemon's, so that an orderly end need not wait for it.
    clock = threading.Timer(SHUTDOWN_TIMEOUT_S, _give_up, (app,))
    clock.daemon = True
    clock.start()


async def run_flow(flow: WorkerFlow) -> None:
    """Return after SIGTERM or SIGINT; raise what crashed an agent."""
    worker: Any = faust.Worker(
        flow.app, loop=asyncio.get_running_loop(), override_logging=False, redirect_stdouts=False, quiet=True
    )
    worker.spinner = None
    flow.app.on_rebalance_complete.connect(_say_ready)
    flow.app.conf.web_enabled = False
    bound = asyncio.create_task(_bound_the_end(worker))
    try:
        await worker.start()
    finally:
        # A signal's own call of `stop` may still be at work when `start` returns.
        if worker._signal_stop_future is not None:
            await worker._signal_stop_future
        await worker.stop()
        await flow.lanes.close()
        bound.cancel()
    if worker.crash_reason is not None:
        raise worker.crash_reason
