"""A limit on the recorded opens and clicks of one link, so that repeated requests cannot fill the log.

The tracking routes check it after they have verified a token. Each gateway counts for itself: with n gateways up to n
times as many hits are recorded.
"""

import hashlib
from collections import OrderedDict
from typing import Final

from pipeline.runtime.ports import Clock
from topics.record import EmailId

MAX_HITS_PER_WINDOW: Final = 200
"""Far more than an email gets that is forwarded within an office; each hit is a row for as long as history is kept."""
WINDOW_MS: Final = 24 * 3_600_000
MAX_COUNTED_LINKS: Final = 100_000
"""Links counted at the same time, about 20 MB; only verified tokens are, so an outsider cannot evict others."""


class HitLimit:
    """Counts the hits of each link for one gateway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hits: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        """The number of a window and the hits in it, by a digest of the token's contents."""

    def admit(self, source: str, email_id: EmailId, url: str = "") -> bool:
        """Count one hit of a verified token; return whether to record it.

        Hits are counted by the token's contents, because base64 can spell the same contents in several ways.
        """
        window = self._clock() // WINDOW_MS
        key = hashlib.blake2b(f"{source} {email_id} {url}".encode(), digest_size=16).digest()
        last_window, hits = self._hits.get(key, (window, 0))
        hits = hits + 1 if last_window == window else 1
        self._hits[key] = (window, hits)
        self._hits.move_to_end(key)
        if len(self._hits) > MAX_COUNTED_LINKS:
            self._hits.popitem(last=False)
        return hits <= MAX_HITS_PER_WINDOW
