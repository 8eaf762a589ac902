"""Read what this process logs, as the JSON lines that an operator gets."""

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.runtime.observing.logs import configure_logging
from pipeline.settings import Settings

LogLines = Callable[[], list[dict[str, Any]]]


@contextlib.contextmanager
def captured_log_lines() -> Iterator[LogLines]:
    """Yield a function that returns the lines logged so far in the block, which must not configure logging itself."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(Settings(log_format="json"), stream=stream)
    try:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
