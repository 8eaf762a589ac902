"""Stored states and the time in, which of them the fold may forget out. Pure.

Nothing is lost with a state that leaves the table: what it says was told in `email-changes`. A later fact
starts a partial state, and whoever reads the changes joins it to what it knows (:func:`topics.join.merge`),
so that no row shows which states were forgotten.
"""

from collections.abc import Sequence

from pipeline.runtime.ports import Clock
from projections.debts import ended_conversions, new_conversions
from topics.codec import Undecodable, decode
from topics.readings import awaits_dispatch, last_activity_at
from topics.record import Millis
from topics.registry import DAY_MS, EMAIL_CHANGES, EMAIL_STATES
from topics.states import EmailState


class StateExpiry:
    """Says which states leave the table."""

    def __init__(self, clock: Clock, days: float) -> None:
        self._clock = clock
        self._quiet = int(days * DAY_MS)

    def __call__(self, stored: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The keys of the quiet ones among states."""
        now = self._clock()
        since, log_begins = now - self._quiet, now - EMAIL_CHANGES.retention_ms
        return [key for key, value in stored if _is_quiet(value, since, log_begins)]


def is_expired(state: EmailState, since: Millis, log_begins: Millis) -> bool:
    """Whether nothing was heard of this email since then, and nobody has anything left to do for it.

    What is older than the log is quiet whatever is left to do. Jobs know of that themselves; all that the
    state was folded from has expired, so that it could tell nobody anything.
    """
    heard = last_activity_at(state)
    if heard >= since:
        return False
    return heard < log_begins or not (awaits_dispatch(state) or new_conversions(state, ended_conversions(state)))


def _is_quiet(value: bytes, since: Millis, log_begins: Millis) -> bool:
    try:
        return is_expired(decode(EMAIL_STATES, value), since, log_begins)
    except Undecodable:  # the fold halts at it when a fact meets it, and not before: until then it harms nobody
        return False
