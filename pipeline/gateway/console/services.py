"""What all routes of the console share; `router.py` makes it once."""

from dataclasses import dataclass

from pipeline.gateway.console.reading import ConsoleReader
from pipeline.gateway.console.rendering import ConsolePages
from pipeline.gateway.console.sessions import ConsoleSessions
from pipeline.gateway.state import GatewayState


@dataclass(frozen=True)
class ConsoleServices:
    """The shared objects of one gateway's console."""

    state: GatewayState
    pages: ConsolePages
    sessions: ConsoleSessions
    reader: ConsoleReader
