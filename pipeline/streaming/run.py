"""Runs a flow until SIGTERM or a crash, without Faust's command line and without its web server."""

import asyncio
import logging
from typing import Any

import faust

from pipeline.streaming.flow import Flow

_log = logging.getLogger("mailfold.worker")


async def _say_ready(app: Any, **_: Any) -> None:
    numbers = sorted({tp.partition for tp in app.consumer.assignment()})
    _log.info("ready; partitions: %s", ", ".join(map(str, numbers)) or "none yet")


async def run(flow: Flow) -> None:
    """Return after SIGTERM or SIGINT; raise what crashed an agent."""
    worker: Any = faust.Worker(
        flow.app, loop=asyncio.get_running_loop(), override_logging=False, redirect_stdouts=False, quiet=True
    )
    worker.spinner = None
    flow.app.on_rebalance_complete.connect(_say_ready)
    flow.app.conf.web_enabled = False
    try:
        await worker.start()
    finally:
        # A signal's own call of `stop` may still be at work when `start` returns.
        if worker._signal_stop_future is not None:
            await worker._signal_stop_future
        await worker.stop()
        await flow.lanes.close()
    if worker.crash_reason is not None:
        raise worker.crash_reason
