"""How long a child lived in; how long to wait before it is started again out. Pure."""

from typing import Final

FIRST: Final = 0.2
LONGEST: Final = 10.0
HEALTHY: Final = 30.0
"""Seconds after which a child counts as healthy: its next death is a first one again."""


class Backoff:
    """0.2 s, doubling to 10 s."""

    def __init__(self) -> None:
        self._next = FIRST

    def after(self, lived: float) -> float:
        """Seconds to wait after a life of ``lived`` seconds."""
        if lived >= HEALTHY:
            self._next = FIRST
        wait, self._next = self._next, min(LONGEST, self._next * 2)
        return wait
