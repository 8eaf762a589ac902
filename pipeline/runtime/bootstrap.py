"""The composition root: open what a role or a command needs, from its settings; every role's `main` calls it."""

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import uuid_utils

from pipeline.errors import InvalidSettings
from pipeline.runtime import crashpoints
from pipeline.runtime.database import Pool, open_database, wait_for_database
from pipeline.runtime.kafka import KafkaLog, open_kafka_log
from pipeline.runtime.kafka_security import check_security
from pipeline.runtime.logs import configure_logging
from pipeline.runtime.ops_server import observe_role
from pipeline.runtime.ports import Clock, NewId
from pipeline.runtime.role_health import RoleHealth, find_server_problems
from pipeline.runtime.role_tracing import open_tracing
from pipeline.runtime.tracing import NO_TRACER, Tracer
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
    if len(settings.secret.get_secret_value()) < 32:
        raise InvalidSettings("MAILFOLD_SECRET: at least 32 characters; the same for every role")
    if 0 < len(settings.secret_previous.get_secret_value()) < 32:
        raise InvalidSettings("MAILFOLD_SECRET_PREVIOUS: at least 32 characters, or empty; the same for every role")


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings, *, pool_size: int = 4, role: str = "", signals: bool = True
) -> AsyncIterator[Runtime]:
    """Open the database and the log, and close them at the end. Observe a named role: its event loop, its endpoints.

    A named role waits until Postgres answers, a command raises DatabaseUnavailable.

    With ``signals``, SIGTERM and SIGINT set ``stop`` and have no other effect; commands leave it out, since these
    signals cancel them. Raise InvalidSettings, DatabaseUnavailable and LogUnavailable.
    """
    check_role_settings(settings)
    configure_logging(settings, role)
    crashpoints.arm(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    health = RoleHealth(role)
    with contextlib.ExitStack() as observed:
        tracer = NO_TRACER
        if role:
            observed.enter_context(observe_role(health, settings))
            tracer = observed.enter_context(open_tracing(settings, health))
            await wait_for_database(settings, stop)
        async with open_database(settings, size=pool_size) as pool, open_kafka_log(settings) as log:
            health.add_check(functools.partial(find_server_problems, log, pool))
            health.finish_start()
            yield Runtime(settings, log, pool, wall_clock, fresh_id, stop, health, tracer)
