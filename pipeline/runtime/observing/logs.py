"""Set up logging for a process: JSON lines in production, aligned columns in a terminal.

Every role and long-running command calls `configure_logging` once, before it opens anything. Our modules log through
`get_logger`, with an event and fields. Libraries log through `logging`; their lines get the same shape.
`bind_log_fields` adds fields to every line of a task, also to those of libraries: request_id, tenant, email_id.
Nobody logs an address, a subject or content: that is each caller's duty.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.types import EventDict, Processor

from pipeline.settings import Settings

NOISY_LOGGERS: Final = ("aiokafka", "faust", "mode", "httpx", "psycopg.pool", "mail.log", "asyncio")
"""Libraries whose lines below WARNING help nobody who runs Mailfold; aiokafka's DEBUG lines hold passwords."""


def _add_role(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add the role of this process to a line that does not say its own."""
    if _process["role"]:
        event.setdefault("role", _process["role"])
    return event


_SHARED_PROCESSORS: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    _add_role,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
]
# A command that configures nothing must not print log lines either: structlog's default writes to standard output.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED_PROCESSORS,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
_process: Final = {"role": ""}
"""The field that each line of this process has, once its role is known."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger whose lines have an event and fields: ``log.warning("lane paused", lane=lane)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bind_log_fields(**fields: str | int) -> None:
    """Add fields to each later log line of the current task, and of the tasks and threads that it starts.

    A task that serves one unit of work after another calls `clear_log_fields` first.
    """
    structlog.contextvars.bind_contextvars(**fields)


def clear_log_fields() -> None:
    """Remove the fields that the current task has bound or inherited."""
    structlog.contextvars.clear_contextvars()


def configure_logging(settings: Settings, role: str = "", stream: TextIO | None = None) -> None:
    """Write one line per event to ``stream`` (standard error), with ``role`` in each.

    ``MAILFOLD_LOG_FORMAT`` decides between JSON and text; ``auto`` is text in a terminal and JSON everywhere else.
    """
    stream = stream or sys.stderr
    _process["role"] = role
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED_PROCESSORS,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings, stream)],
        )
    )
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))


def _renderers(settings: Settings, stream: TextIO) -> list[Processor]:
    if settings.log_format == "text" or (settings.log_format == "auto" and stream.isatty()):
        # structlog's own choice, where rich is installed, prints the local variables of every frame: addresses, keys.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(stream.isatty(), timestamp_key="time", exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.UnicodeDecoder(), _order_fields, _render_json]


def _order_fields(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Return the event with the fields first that a reader looks for first."""
    first = {key: event.pop(key) for key in ("time", "level", "role", "event") if key in event}
    return {**first, **event}


def _render_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """Return one line of JSON in ASCII; a value that JSON does not know is written as its text.

    Other servers' words may hold half a surrogate pair, which only escapes can write.
    """
    return json.dumps(event, default=str, separators=(",", ":"))
