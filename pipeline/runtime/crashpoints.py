"""End the process at a named place, as kill -9 would, for tests; in production the places do nothing.

Every role arms its points from the settings in bootstrap. Most points lie between a step's effect in one system
and its record in another.
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
    """Arm the point that `crash_at` names; with `crash_once`, only while that file exists."""
    _armed.clear()
    if settings.crash_at:
        _armed[settings.crash_at] = Path(settings.crash_once) if settings.crash_once else None


def crash_point(name: str) -> None:
    """Exit at once and without clean-up if this point is armed."""
    if name not in _armed:
        return
    once_file = _armed[name]
    if once_file is not None:
        try:
            once_file.unlink()
        except FileNotFoundError:
            return
    os._exit(137)
