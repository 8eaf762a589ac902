"""State expiry: decides which stored states the worker may remove from its table. Pure; the expiry scan calls it.

Removing a state loses nothing, because `email-changes` has its content. A later fact starts a partial state, and every
reader of the changes joins it to the state it has (:func:`topics.join.merge`), so projections do not depend on expiry.
"""

from collections.abc import Sequence

from pipeline.runtime.ports import Clock
from projections.pending_conversions import ended_conversions, new_conversions
from topics.codec import NewerRecord, Undecodable, decode
from topics.readings import awaits_dispatch, last_activity_at
from topics.record import Millis
from topics.registry import DAY_MS, EMAIL_CHANGES, EMAIL_STATES
from topics.states import EmailState


class StateExpiry:
    """Finds the states that were inactive for a number of days and have no work left."""

    def __init__(self, clock: Clock, days: float) -> None:
        self._clock = clock
        self._expire_after_ms = int(days * DAY_MS)

    def __call__(self, stored: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the keys of the expired states among encoded ones."""
        now = self._clock()
        active_since, log_start = now - self._expire_after_ms, now - EMAIL_CHANGES.retention_ms
        return [key for key, value in stored if _is_expired_value(value, active_since, log_start)]


def is_expired(state: EmailState, active_since: Millis, log_start: Millis) -> bool:
    """Return whether an email had no activity since ``active_since`` and has no work left.

    A state whose last activity is older than the log expires even with work left: the jobs are in Postgres, and the
    facts that the state was folded from are gone from the log.
    """
    active_at = last_activity_at(state)
    if active_at >= active_since:
        return False
    return active_at < log_start or not (awaits_dispatch(state) or new_conversions(state, ended_conversions(state)))


def _is_expired_value(value: bytes, active_since: Millis, log_start: Millis) -> bool:
    try:
        return is_expired(decode(EMAIL_STATES, value), active_since, log_start)
    except (
        Undecodable,
        NewerRecord,
    ):  # the fold raises this error when a fact of this email comes; until then the state is harmless
        return False
