"""`mailfold worker`: settings in, an exit code out; the dataflow it runs is `topology.py`."""

import asyncio
import gc
import logging
import sys

import uvloop

from pipeline.errors import MailfoldError
from pipeline.runtime import crashpoints, topic_admin
from pipeline.runtime.bootstrap import check_role_settings, wall_clock
from pipeline.runtime.logs import configure_logging
from pipeline.runtime.watchdog import watch_event_loop
from pipeline.settings import Settings
from pipeline.webhooks.proofs import token_readers_of
from pipeline.worker.agents import FactFolder, Normalizer
from pipeline.worker.expiry import StateExpiry
from pipeline.worker.normalizing.pool import open_normalizer_pool
from pipeline.worker.streaming.app import WorkerFlow
from pipeline.worker.streaming.producer import open_event_producer
from pipeline.worker.streaming.runner import run_flow
from pipeline.worker.topology import build_topology

_log = logging.getLogger("mailfold.worker")


async def serve(settings: Settings) -> None:
    """Run the worker's flow until it is told to stop; raise what crashed it, and TopicMismatch."""
    await topic_admin.check(settings)
    ours = token_readers_of(settings)
    tune_garbage_collector()
    async with open_event_producer(settings) as out, open_normalizer_pool(settings, wall_clock) as pool:
        normalizer, folder = Normalizer(wall_clock, ours, pool.normalize), FactFolder(wall_clock)
        with watch_event_loop("worker"):
            await run_flow(
                build_topology(
                    WorkerFlow(settings, out), normalizer, folder, StateExpiry(wall_clock, settings.quiet_days)
                )
            )


def tune_garbage_collector() -> None:
    """Thousands of records at once are no garbage: looking through them at every 700th costs a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def main(settings: Settings) -> None:
    """Return after SIGTERM; exit 1 after a crash, so that the supervisor starts us again."""
    check_role_settings(settings)
    configure_logging(settings, "worker")
    crashpoints.arm(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except MailfoldError:
        raise
    except Exception:
        _log.exception("the worker crashed")
        sys.exit(1)
