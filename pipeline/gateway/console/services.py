"""What all routes of the console share; `router.py` makes it once."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pipeline.admin.actions import OperatorChange
from pipeline.gateway.console.reading import ConsoleReader
from pipeline.gateway.console.rendering import ConsolePages
from pipeline.gateway.console.sessions import ConsoleSessions, Viewer
from pipeline.gateway.state import GatewayState
from pipeline.runtime.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class ConsoleServices:
    """The shared objects of one gateway's console."""

    state: GatewayState
    pages: ConsolePages
    sessions: ConsoleSessions
    reader: ConsoleReader

    @contextlib.asynccontextmanager
    async def recorded(self, viewer: Viewer, change: OperatorChange) -> AsyncIterator[None]:
        """Record a change by the viewer, run the block that makes it, and note that. Raise ActionNotRecorded.

        The reason is a person's own words and may name anybody: it goes where the record keeps it, and not to the log
        lines.
        """
        async with self.state.actions_of(viewer.key, viewer.actor).recorded(change):
            yield
        has_reason = bool(change.reason)
        log.info(
            "decided in the console", action=change.what, subject=change.target, by=viewer.actor, has_reason=has_reason
        )
