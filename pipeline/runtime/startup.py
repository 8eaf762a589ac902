"""Wait for Kafka and Postgres where a role starts; `bootstrap` and the roles' `main` call it.

A role that ended instead would be started again by its supervisor after longer and longer pauses, and come back minutes
after the servers.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from aiokafka.errors import KafkaError

from pipeline.errors import ClientRefused, DatabaseUnavailable, LogUnavailable
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.tasks import run_unless

RETRY_INTERVAL_S: Final = 2.0
"""Seconds between two attempts of a starting role."""
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

logger = get_logger(__name__)

T = TypeVar("T")


async def wait_until_available(server: str, attempt: Callable[[], Coroutine[Any, Any, T]], stop: asyncio.Event) -> T:
    """Repeat ``attempt`` until it succeeds, and return its result; log why it fails, each reason once.

    Raise RoleStopped once ``stop`` is set, and whatever waiting does not change, such as a wrong password
    (ClientRefused) or a database that is not migrated (SchemaMismatch).
    """
    logged_reason = ""
    while True:
        try:
            result = await run_unless(stop, attempt())
        except ClientRefused:  # else nobody would notice, and logins would go on every two seconds
            raise
        except (KafkaError, LogUnavailable, DatabaseUnavailable) as error:
            reason = str(error) or type(error).__name__
            if reason != logged_reason:
                logger.error(f"{server} unavailable, waiting", error=reason)
            logged_reason = reason
            await run_unless(stop, asyncio.sleep(RETRY_INTERVAL_S))
        else:
            if logged_reason:
                logger.warning(f"{server} available again")
            return result


def stop_at_signals(stop: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT set ``stop``, and do nothing else, as long as the event loop runs."""
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
