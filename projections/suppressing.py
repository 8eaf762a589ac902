"""Suppressions: a state and the facts just applied in, the address to write to no more out. Pure.

A hard bounce or a complaint suppresses the address for the brand. The address itself stays out of
the table: the caller hands in the keyed hash.
"""

from collections.abc import Callable, Iterable

import msgspec

from topics.changes import Fact
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId, Millis
from topics.states import EmailState

HashAddress = Callable[[str], bytes]


class Suppression(msgspec.Struct, frozen=True, order=True):
    """Why a brand doesn't write to an address, and since when. Of two, the smaller stands.

    The order makes it a join: emails of two partitions may come in any order.
    """

    since: Millis
    email_id: EmailId
    event_id: str
    reason: str


Key = tuple[str, str, bytes]
"""Tenant, brand, keyed hash of the address."""


def suppressions(
    state: EmailState, facts: Iterable[Fact], hash_address: HashAddress
) -> Iterable[tuple[Key, Suppression]]:
    """What this change suppresses; nothing before the request says whose address it is."""
    request = state.request
    reasons = [*_told_by_state(state), *_told_by_facts(facts)]
    if request is None or not reasons:
        return ()
    key = (request.tenant, request.brand, hash_address(request.recipient))
    return ((key, reason) for reason in reasons)


def _told_by_state(state: EmailState) -> Iterable[Suppression]:
    """What came before the request did shows here."""
    if state.complaint is not None:
        yield Suppression(state.complaint.at, state.email_id, state.complaint.event_id, "complaint")
    if state.bounce is not None and state.bounce.bounce_class is BounceClass.HARD:
        yield Suppression(state.bounce.at, state.email_id, state.bounce.event_id, "hard bounce")


def _told_by_facts(facts: Iterable[Fact]) -> Iterable[Suppression]:
    """A hard bounce after a soft one is in the facts alone: a state keeps the first detail."""
    for fact in facts:
        if isinstance(fact, DeliveryEvent) and fact.kind is EventKind.BOUNCED and fact.bounce_class is BounceClass.HARD:
            at = min(fact.occurred_at, fact.recorded_at)
            yield Suppression(at, fact.email_id, fact.event_id, "hard bounce")
        elif isinstance(fact, DeliveryEvent) and fact.kind is EventKind.COMPLAINED:
            at = min(fact.occurred_at, fact.recorded_at)
            yield Suppression(at, fact.email_id, fact.event_id, "complaint")
