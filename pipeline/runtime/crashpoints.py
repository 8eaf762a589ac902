"""Named places where a test may end the process as kill -9 would; without a test, nothing.

Each name is a place where work was done on one side and not yet recorded on the other.
"""

import os
from pathlib import Path
from typing import Final

from pipeline.settings import Settings

CRASH_POINTS: Final = (
    "normalize.before-ack",
    "fold.in-transaction",
    "fold.before-ack",
    "fold.before-store",
    "dispatch.after-250",
    "dispatch.after-ack",
    "correlate.before-unpark",
    "emit.after-2xx",
    "emit.after-result",
    "project.between-rows-and-offset",
    "project.after-commit",
    "gateway.between-content-and-request",
    "gateway.before-answer",
)

_armed: dict[str, Path | None] = {}


def arm(settings: Settings) -> None:
    """Arm the point that the settings name; with `crash_once`, only while that file exists."""
    _armed.clear()
    if settings.crash_at:
        _armed[settings.crash_at] = Path(settings.crash_once) if settings.crash_once else None


def crash_point(name: str) -> None:
    """Exit here, at once and without clean-up, if armed."""
    if name not in _armed:
        return
    once = _armed[name]
    if once is not None:
        try:
            once.unlink()
        except FileNotFoundError:
            return
    os._exit(137)
