"""The role `mailfold worker`: starts the dataflow that `topology` declares and runs it until SIGTERM."""

import asyncio
import gc
import signal
import sys
from typing import Final

import uvloop

from pipeline.errors import ClientRefused, LogUnavailable, MailfoldError
from pipeline.runtime import crashpoints, topic_admin
from pipeline.runtime.bootstrap import check_role_settings, wall_clock
from pipeline.runtime.logs import configure_logging, get_logger
from pipeline.runtime.ops_server import observe_role
from pipeline.runtime.role_health import RoleHealth
from pipeline.runtime.role_tracing import open_tracing
from pipeline.settings import Settings
from pipeline.webhooks.token_readers import token_readers_of
from pipeline.worker.agents import FactFolder, Normalizer
from pipeline.worker.expiry import StateExpiry
from pipeline.worker.normalizing.pool import open_normalizer_pool
from pipeline.worker.streaming.app import WorkerFlow
from pipeline.worker.streaming.observer import FlowObserver
from pipeline.worker.streaming.producer import open_event_producer
from pipeline.worker.streaming.runner import run_flow
from pipeline.worker.topology import build_topology
from topics.codec import NewerRecord

_log = get_logger("mailfold.worker")

RETRY_PAUSE_S: Final = 2.0
"""Seconds between two attempts to reach Kafka at the start."""
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings) -> None:
    """Run the worker's flow until SIGTERM. Raises what crashed it, and TopicMismatch."""
    health = RoleHealth("worker")
    with observe_role(health, settings), open_tracing(settings, health) as tracer:
        if not await check_topics(settings):
            return
        token_readers = token_readers_of(settings)
        tune_garbage_collector()
        async with open_event_producer(settings) as producer, open_normalizer_pool(settings, wall_clock) as pool:
            normalizer, folder = Normalizer(wall_clock, token_readers, pool.normalize), FactFolder(wall_clock)
            expiry = StateExpiry(wall_clock, settings.quiet_days)
            flow = build_topology(WorkerFlow(settings, producer, tracer=tracer), normalizer, folder, expiry)
            FlowObserver(flow, health)
            health.finish_start()
            await run_flow(flow)


async def check_topics(settings: Settings) -> bool:
    """Check the topics as soon as Kafka answers; return False if SIGTERM or SIGINT comes first.

    Raises TopicMismatch, and ClientRefused as for a wrong password.

    The worker ends when a write is not confirmed in time. Ended again at each start of a long outage, it would be
    restarted by process managers after longer and longer pauses, up to minutes after the outage.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        await _check_topics_until_answered(settings)
    except asyncio.CancelledError:
        return False
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
    return True


async def _check_topics_until_answered(settings: Settings) -> None:
    is_logged = False
    while True:
        try:
            await topic_admin.check(settings)
        except ClientRefused:  # else nobody would notice a wrong password, and logins would go on every two seconds
            raise
        except LogUnavailable as error:
            if not is_logged:
                _log.error("Kafka unavailable, retrying", error=str(error))
            is_logged = True
            await asyncio.sleep(RETRY_PAUSE_S)
        else:
            return


def tune_garbage_collector() -> None:
    """Make the garbage collector run less often.

    A batch holds thousands of live objects; scanning them at every 700th allocation costs a tenth of the CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def main(settings: Settings) -> None:
    """Run the worker and return after SIGTERM; exit 1 after a crash, so that the supervisor restarts it.

    Raises MailfoldError, and NewerRecord at a record that only a newer worker knows.
    """
    check_role_settings(settings)
    configure_logging(settings, "worker")
    crashpoints.arm(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (MailfoldError, NewerRecord):
        raise
    except Exception:
        _log.exception("worker crashed")
        sys.exit(1)
