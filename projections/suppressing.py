"""Suppressions: a state in, the address to write to no more out. Pure.

A hard bounce or a complaint suppresses the address for the brand. The address itself stays out of
the table: the caller hands in the keyed hash.
"""

from collections.abc import Callable

import msgspec

from topics.events import BounceClass
from topics.record import EmailId, Millis
from topics.states import EmailState

HashAddress = Callable[[str], bytes]

Key = tuple[str, str, bytes]
"""Tenant, brand, keyed hash of the address."""


class Suppression(msgspec.Struct, frozen=True, order=True):
    """Why a brand doesn't write to an address, and since when. Of two, the smaller stands.

    The order makes it a join: emails of two partitions may come in any order.
    """

    since: Millis
    email_id: EmailId
    event_id: str
    reason: str


def suppression(state: EmailState, hash_address: HashAddress) -> tuple[Key, Suppression] | None:
    """What this email's fate suppresses; nothing before the request says whose address it is."""
    why = min(_reasons(state), default=None)
    if why is None or state.request is None:
        return None
    request = state.request
    return (request.tenant, request.brand, hash_address(request.recipient)), why


def _reasons(state: EmailState) -> list[Suppression]:
    reasons = []
    if state.complaint is not None:
        at, event_id = state.complaint.at, state.complaint.event_id
        reasons.append(Suppression(at, state.email_id, event_id, "complaint"))
    if state.bounce is not None and state.bounce.bounce_class is BounceClass.HARD:
        reasons.append(Suppression(state.bounce.at, state.email_id, state.bounce.event_id, "hard bounce"))
    return reasons
