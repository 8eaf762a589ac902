"""Note who decided what in the console, and why."""

from pipeline.gateway.console.sessions import Viewer
from pipeline.runtime.logs import get_logger

log = get_logger(__name__)


def note_decision(viewer: Viewer, action: str, subject: str, reason: str) -> None:
    """Note that the viewer has done something to a lane, a job or an address' hash.

    The reason is a person's own words and may name anybody: it goes where the action itself keeps it, and not here.
    """
    log.info("decided in the console", action=action, subject=subject, by=viewer.actor, has_reason=bool(reason))
