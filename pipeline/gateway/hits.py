"""How many opens and clicks of one link are recorded, so that nobody fills the log by asking for one picture for ever.

Counted per gateway and window, for tokens that were verified: with n gateways up to n times as many are recorded.
"""

import hashlib
from collections import OrderedDict
from typing import Final

from pipeline.runtime.ports import Clock
from topics.record import EmailId

MAX_HITS_PER_WINDOW: Final = 200
"""Far more than a mail that is passed on in an office gets; each is a row for as long as the history is kept."""
WINDOW_MS: Final = 24 * 3_600_000
MAX_COUNTED_LINKS: Final = 100_000
"""Remembered at once, some 20 MB; only tokens of ours are, so an outsider can't push others out."""


class HitLimit:
    """Counts the hits of each link for one gateway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        """A digest of what a token says -> which window, and how many hits in it."""

    def admit(self, source: str, email_id: EmailId, url: str = "") -> bool:
        """Count one hit of a verified token; return whether it is to be recorded.

        Known by what the token says: one meaning has several spellings in base64.
        """
        window = self._clock() // WINDOW_MS
        key = hashlib.blake2b(f"{source} {email_id} {url}".encode(), digest_size=16).digest()
        last, hits = self._seen.get(key, (window, 0))
        hits = hits + 1 if last == window else 1
        self._seen[key] = (window, hits)
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_COUNTED_LINKS:
            self._seen.popitem(last=False)
        return hits <= MAX_HITS_PER_WINDOW
