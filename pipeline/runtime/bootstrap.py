"""The composition root: open what a role or a command needs, from its settings; every role's `main` calls it."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import uuid_utils

from pipeline.errors import InvalidSettings
from pipeline.runtime import crashpoints
from pipeline.runtime.kafka.log import KafkaLog, open_kafka_log
from pipeline.runtime.kafka.log_compression import open_compression
from pipeline.runtime.kafka.security import check_security
from pipeline.runtime.observing.logs import configure_logging
from pipeline.runtime.observing.ops_server import observe_role
from pipeline.runtime.observing.role_health import RoleHealth, find_server_problems
from pipeline.runtime.observing.role_tracing import open_tracing
from pipeline.runtime.observing.tracing import NO_TRACER, Tracer
from pipeline.runtime.ports import Clock, NewId
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.postgres.schema import read_feature_level
from pipeline.runtime.secrets.secret_fingerprints import open_checked_database
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.startup import stop_at_signals, wait_until_available
from pipeline.settings import Settings


@dataclass(frozen=True)
class Runtime:
    """The open connections and other external dependencies of a role or command; closed by :func:`open_runtime`."""

    settings: Settings
    log: KafkaLog
    pool: Pool
    clock: Clock
    new_id: NewId
    stop: asyncio.Event
    """An event that SIGTERM and SIGINT set: the role finishes the work in hand and returns."""
    health: RoleHealth
    """Where a role says whether it is ready, and shows its metrics."""
    tracer: Tracer = NO_TRACER


def wall_clock() -> int:
    """Return the present time in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def fresh_id() -> str:
    """Return a new UUIDv7."""
    return str(uuid_utils.uuid7())


def check_role_settings(settings: Settings) -> None:
    """Raise InvalidSettings unless a role can run with these settings."""
    if not settings.kafka_bootstrap:
        raise InvalidSettings(
            "KAFKA_BOOTSTRAP: missing; `mailfold up` starts a Kafka of its own, other roles need yours"
        )
    check_security(settings)
    secret_ring(settings)


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings, *, pool_size: int = 4, role: str = "", signals: bool = True
) -> AsyncIterator[Runtime]:
    """Open the database and the log, and close them at the end. Observe a named role: its event loop, its endpoints.

    A named role waits until Postgres and Kafka answer; a command raises DatabaseUnavailable and LogUnavailable.

    With ``signals``, SIGTERM and SIGINT set ``stop`` and have no other effect; commands leave it out, since these
    signals cancel them. Raise InvalidSettings, SchemaMismatch and ClientRefused, and RoleStopped where a signal comes
    before both servers answer.
    """
    check_role_settings(settings)
    configure_logging(settings, role)
    crashpoints.arm(settings)
    stop = asyncio.Event()
    if signals:
        stop_at_signals(stop)
    health = RoleHealth(role)
    with contextlib.ExitStack() as observed:
        tracer = NO_TRACER
        if role:
            observed.enter_context(observe_role(health, settings))
            tracer = observed.enter_context(open_tracing(settings, health))
        async with contextlib.AsyncExitStack() as stack:

            def open_pool() -> Coroutine[Any, Any, Pool]:
                return stack.enter_async_context(open_checked_database(settings, size=pool_size, remember=bool(role)))

            def open_log() -> Coroutine[Any, Any, KafkaLog]:
                return stack.enter_async_context(open_kafka_log(settings, compression))

            pool = await (wait_until_available("Postgres", open_pool, stop) if role else open_pool())
            compression = await stack.enter_async_context(
                open_compression(functools.partial(read_feature_level, settings))
            )
            log = await (wait_until_available("Kafka", open_log, stop) if role else open_log())
            health.add_check(functools.partial(find_server_problems, log, pool))
            health.finish_start()
            yield Runtime(settings, log, pool, wall_clock, fresh_id, stop, health, tracer)
