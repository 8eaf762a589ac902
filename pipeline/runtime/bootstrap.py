"""The composition root: settings in, a running role's world out; the only place that wires."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import uuid_utils

from pipeline.errors import InvalidSettings
from pipeline.runtime import crashpoints
from pipeline.runtime.database import Pool, open_database
from pipeline.runtime.kafka import KafkaLog, open_kafka_log
from pipeline.runtime.logs import configure_logging
from pipeline.runtime.ports import Clock, NewId
from pipeline.runtime.watchdog import Watchdog, watch_event_loop
from pipeline.settings import Settings


@dataclass(frozen=True)
class Runtime:
    """What a role gets: everything from outside, opened; closed by whoever opened it."""

    settings: Settings
    log: KafkaLog
    pool: Pool
    clock: Clock
    new_id: NewId
    stop: asyncio.Event
    """Set by SIGTERM and SIGINT: finish what is in hand and return."""
    watchdog: Watchdog | None = None
    """Measures a role's event loop; a command has none."""


def wall_clock() -> int:
    """Now, in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def fresh_id() -> str:
    """A UUIDv7."""
    return str(uuid_utils.uuid7())


def check_role_settings(settings: Settings) -> None:
    """Raise BadSettings unless a role can run with these."""
    if not settings.kafka_bootstrap:
        raise InvalidSettings(
            "KAFKA_BOOTSTRAP: missing; `mailfold up` starts a Kafka of its own, other roles need yours"
        )
    if len(settings.secret.get_secret_value()) < 32:
        raise InvalidSettings("MAILFOLD_SECRET: at least 32 characters; the same for every role")
    if 0 < len(settings.secret_previous.get_secret_value()) < 32:
        raise InvalidSettings("MAILFOLD_SECRET_PREVIOUS: at least 32 characters, or empty; the same for every role")


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings, *, pool_size: int = 4, role: str = "", signals: bool = True
) -> AsyncIterator[Runtime]:
    """Open everything a role needs, in order; close it in reverse. A named role's event loop is watched.

    With ``signals``, SIGTERM and SIGINT set ``stop`` and end nothing by themselves; a command is cancelled by them.
    """
    check_role_settings(settings)
    configure_logging(settings, role)
    crashpoints.arm(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_database(settings, size=pool_size) as pool, open_kafka_log(settings) as log:
        with watch_event_loop(role) if role else contextlib.nullcontext() as watchdog:
            yield Runtime(settings, log, pool, wall_clock, fresh_id, stop, watchdog)
