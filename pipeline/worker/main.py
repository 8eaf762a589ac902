"""`mailfold worker`: settings in, an exit code out; the dataflow it runs is `topology.py`."""

import asyncio
import gc
import logging
import sys

import uvloop

from pipeline.errors import MailfoldError
from pipeline.runtime import crashpoints, topic_admin
from pipeline.runtime.bootstrap import configure_logging, require, wall_clock
from pipeline.runtime.watchdog import watching
from pipeline.settings import Settings
from pipeline.webhooks.proofs import proofs_of
from pipeline.worker.agents import Folder, Normalizer
from pipeline.worker.expiry import Forgetter
from pipeline.worker.normalizing.pool import normalizer_pool
from pipeline.worker.streaming.app import Flow
from pipeline.worker.streaming.producer import outlet
from pipeline.worker.streaming.runner import run
from pipeline.worker.topology import build

_log = logging.getLogger("mailfold.worker")


async def serve(settings: Settings) -> None:
    """Run the worker's flow until it is told to stop; raise what crashed it, and TopicMismatch."""
    await topic_admin.check(settings)
    ours = proofs_of(settings)
    spare_the_collector()
    async with outlet(settings) as out, normalizer_pool(settings, wall_clock) as pool:
        normalizer, folder = Normalizer(wall_clock, ours, pool.normalize), Folder(wall_clock)
        with watching("worker"):
            await run(build(Flow(settings, out), normalizer, folder, Forgetter(wall_clock, settings.quiet_days)))


def spare_the_collector() -> None:
    """Thousands of records at once are no garbage: looking through them at every 700th costs a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def main(settings: Settings) -> None:
    """Return after SIGTERM; exit 1 after a crash, so that the supervisor starts us again."""
    require(settings)
    configure_logging(settings)
    crashpoints.arm(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except MailfoldError:
        raise
    except Exception:
        _log.exception("the worker crashed")
        sys.exit(1)
