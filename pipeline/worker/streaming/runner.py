"""Runs a flow until SIGTERM or a crash, without Faust's command line and web server; called by `worker.main`."""

import asyncio
import os
import threading
from typing import Any, Final

import faust

from pipeline.runtime.observing.logs import get_logger
from pipeline.worker.streaming.app import WorkerFlow

SHUTDOWN_TIMEOUT_S: Final = 7.0
"""Seconds for an orderly shutdown, of the ten that a role has after SIGTERM."""

_log = get_logger("mailfold.worker")


async def _log_ready(app: Any, **_: Any) -> None:
    numbers = sorted({tp.partition for tp in app.consumer.assignment()})
    _log.info("worker ready", partitions=list(numbers))


def _exit_now(app: Any) -> None:
    """Exit without cleanup: Faust's shutdown waits without limit during a rebalance or while the brokers are silent.

    Nothing is lost: what is written was committed together with its offsets, the rest is fetched again.
    """
    _log.warning("shutdown abandoned, batches in progress are processed again", timeout_s=SHUTDOWN_TIMEOUT_S)
    os._exit(1 if app.crashed else 0)


async def _limit_shutdown_time(worker: Any) -> None:
    """Wait until a signal or a crash begins the shutdown, then start the timer that ends the process."""
    app = worker.app
    ends = (worker._stopped, worker._crashed, app._stopped, app._crashed)
    tasks = [asyncio.ensure_future(end.wait()) for end in ends]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    # A thread, because the event loop itself may hang; a daemon, so that an orderly shutdown need not wait for it.
    timer = threading.Timer(SHUTDOWN_TIMEOUT_S, _exit_now, (app,))
    timer.daemon = True
    timer.start()


async def run_flow(flow: WorkerFlow) -> None:
    """Run the flow until SIGTERM or SIGINT. Raises the exception that crashed an agent."""
    worker: Any = faust.Worker(
        flow.app, loop=asyncio.get_running_loop(), override_logging=False, redirect_stdouts=False, quiet=True
    )
    worker.spinner = None
    flow.app.on_rebalance_complete.connect(_log_ready)
    flow.app.conf.web_enabled = False
    shutdown_limit = asyncio.create_task(_limit_shutdown_time(worker))
    try:
        await worker.start()
    finally:
        # The signal handler's own call of `stop` may still be running when `start` returns.
        if worker._signal_stop_future is not None:
            await worker._signal_stop_future
        await worker.stop()
        await flow.writers.close()
        shutdown_limit.cancel()
    if worker.crash_reason is not None:
        raise worker.crash_reason
