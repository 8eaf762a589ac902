"""The role `mailfold worker`: starts the dataflow that `topology` declares and runs it until SIGTERM."""

import asyncio
import contextlib
import functools
import gc
import sys

import uvloop

from pipeline.errors import DatabaseUnavailable, MailfoldError, RoleStopped
from pipeline.runtime import crashpoints
from pipeline.runtime.bootstrap import check_role_settings, wall_clock
from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.kafka.log_compression import LogCompression, open_compression
from pipeline.runtime.observing.logs import configure_logging, get_logger
from pipeline.runtime.observing.ops_server import observe_role
from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.runtime.observing.role_tracing import open_tracing
from pipeline.runtime.postgres.schema import read_feature_level
from pipeline.runtime.secrets.secret_fingerprints import open_checked_database
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.startup import STOP_SIGNALS, stop_at_signals, wait_until_available
from pipeline.settings import Settings
from pipeline.webhooks.token_readers import token_readers
from pipeline.worker.agents import FactFolder, Normalizer
from pipeline.worker.expiry import StateExpiry
from pipeline.worker.normalizing.pool import open_normalizer_pool
from pipeline.worker.streaming.app import WorkerFlow
from pipeline.worker.streaming.observer import FlowObserver
from pipeline.worker.streaming.producer import EventProducer, open_event_producer
from pipeline.worker.streaming.runner import run_flow
from pipeline.worker.topology import build_topology
from topics.codec import NewerRecord
from topics.registry import ROLE_TOPICS

_log = get_logger("mailfold.worker")


async def serve(settings: Settings) -> None:
    """Run the worker's flow until SIGTERM.

    Raises what crashed it, TopicMismatch, ClientRefused, and RoleStopped if SIGTERM comes before Kafka answers.
    """
    health = RoleHealth("worker")
    with observe_role(health, settings), open_tracing(settings, health) as tracer:
        async with contextlib.AsyncExitStack() as stack:
            await _check_secrets(settings)
            compression = await stack.enter_async_context(_open_compression(settings))
            producer = await _start_producer(settings, compression, stack)
            readers = token_readers(secret_ring(settings))
            tune_garbage_collector()
            pool = await stack.enter_async_context(open_normalizer_pool(settings, wall_clock))
            normalizer, folder = Normalizer(wall_clock, readers, pool.normalize), FactFolder(wall_clock)
            expiry = StateExpiry(wall_clock, settings.quiet_days)
            worker_flow = WorkerFlow(settings, producer, compression, tracer=tracer)
            flow = build_topology(worker_flow, normalizer, folder, expiry)
            FlowObserver(flow, health)
            health.finish_start()
            await run_flow(flow)


def _open_compression(settings: Settings) -> contextlib.AbstractAsyncContextManager[LogCompression]:
    """Open the worker's compression; a worker that was given no database does not compress."""
    if not settings.database_url.get_secret_value():
        return contextlib.nullcontext(LogCompression())
    return open_compression(functools.partial(read_feature_level, settings))


async def _start_producer(
    settings: Settings, compression: LogCompression, stack: contextlib.AsyncExitStack
) -> EventProducer:
    """Check the topics and open the event producer, as soon as Kafka answers."""
    stop = asyncio.Event()
    stop_at_signals(stop)
    try:
        await wait_until_available("Kafka", lambda: topic_admin.check(settings, ROLE_TOPICS), stop)
        producer = await wait_until_available(
            "Kafka", lambda: stack.enter_async_context(open_event_producer(settings, compression)), stop
        )
    finally:
        for number in STOP_SIGNALS:  # Faust sets handlers of its own
            asyncio.get_running_loop().remove_signal_handler(number)
    if stop.is_set():  # just now: Faust would not hear of it
        raise RoleStopped
    return producer


async def _check_secrets(settings: Settings) -> None:
    """Raise InvalidSettings for secrets that are not the database's, if this worker was given one and it answers."""
    if settings.database_url.get_secret_value():
        try:
            async with open_checked_database(settings, size=1, remember=False):
                pass
        except DatabaseUnavailable as error:
            _log.warning("Postgres unavailable, secrets not checked", error=str(error))


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
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(RoleStopped):
            runner.run(serve(settings))
    except (MailfoldError, NewerRecord):
        raise
    except Exception:
        _log.exception("worker crashed")
        sys.exit(1)
