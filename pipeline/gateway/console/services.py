"""Hold what all routes of the console share; `router.py` makes it once."""

from dataclasses import dataclass

from pipeline.admin.actions import ActionRecorder
from pipeline.gateway.console.reading import ConsoleReader
from pipeline.gateway.console.rendering import ConsolePages
from pipeline.gateway.console.sessions import ConsoleSessions, Viewer
from pipeline.gateway.state import GatewayState
from pipeline.runtime.observing.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class ConsoleServices:
    """The shared objects of one gateway's console."""

    state: GatewayState
    pages: ConsolePages
    sessions: ConsoleSessions
    reader: ConsoleReader

    def actions_of(self, viewer: Viewer) -> ActionRecorder:
        """Return the recorder of the changes that this viewer makes."""
        rt = self.state.runtime
        return ActionRecorder(self.state.log, rt.clock, rt.new_id, viewer.actor)
