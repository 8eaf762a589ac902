"""The fold: a state and a fact in, the state of both out. Pure and total, in any order, with any repeats.

`evolve` is a join: ``evolve(state, fact) == merge(state, lift(fact))``. What a fact means is said
once, in :func:`parts`; how two meanings combine, once, in :mod:`topics.join`.
"""

from typing import Any, Final

from topics.acks import Ack, Acked, Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult
from topics.events import BounceClass, Correction, DeliveryEvent, EventKind, Retraction
from topics.ids import id_hash, short_id
from topics.join import DETAILS, absorb
from topics.record import Millis
from topics.requests import SendRequest
from topics.states import CorrectedEvent, EmailState, EventDetail, Mark, Settlement
from topics.verdict import bounce_class

MAX_TEXT_CHARS: Final = 4_000
"""What a state keeps of a reply's text; every change repeats it. The whole text is in the timeline."""
MAX_WORD_CHARS: Final = 300

StateFields = dict[str, Any]
"""Fields of an EmailState: what one fact says."""

# A provider's deferral comes after it took custody, ours before: two marks, so that no clock decides.
_MARK_OF: Final = {
    EventKind.QUEUED: "queued",
    EventKind.SENT: "sent",
    EventKind.DEFERRED: "delayed",
    EventKind.DELIVERED: "delivered",
    EventKind.OPENED: "opened",
    EventKind.CLICKED: "clicked",
    EventKind.BOUNCED: "bounced",
    EventKind.COMPLAINED: "complained",
    EventKind.DROPPED: "dropped",
    EventKind.FAILED: "failed",
    EventKind.UNSUBSCRIBED: "unsubscribed",
    EventKind.REPLIED: "replied",
    EventKind.UNKNOWN: "unknown",
}
_MARK_OF_ACK: Final[dict[type, str]] = {
    Acked: "sent",
    Deferred: "deferred",
    Rejected: "bounced",
    Dropped: "dropped",
    Failed: "failed",
}
_DETAIL_OF: Final = {mark: detail for detail, mark in DETAILS.items()}
_MACHINE_MARKS: Final = {"opened": "opened_machine", "clicked": "clicked_machine"}
_SETTLING_OUTCOMES: Final = frozenset(
    {ConversionOutcome.DELIVERED, ConversionOutcome.REFUSED, ConversionOutcome.GIVEN_UP}
)


def evolve(state: EmailState | None, fact: Fact) -> EmailState:
    """The state of everything in ``state`` and ``fact``.

    A repeat gives ``state`` itself back. Raises ValueError for a fact of another email: a caller's bug.
    """
    if state is None:
        return state_of_fact(fact)
    if state.email_id != fact.email_id:
        raise ValueError(f"a fact of {fact.email_id} doesn't belong to the state of {state.email_id}")
    return absorb(state, parts(fact))


def state_of_fact(fact: Fact) -> EmailState:
    """The state of one fact alone."""
    return EmailState(email_id=fact.email_id, **parts(fact))


def parts(fact: Fact) -> StateFields:
    """What one fact says, as fields of a state."""
    if isinstance(fact, DeliveryEvent):
        return _event(fact)
    if isinstance(fact, SendRequest):
        return _request(fact)
    if isinstance(fact, ConversionResult):
        return _conversion(fact)
    if isinstance(fact, Retraction):
        return {"corrected": (_corrected(fact, fact.corrects, "", None),)}
    return _ack(fact)


def mark_of(event: DeliveryEvent) -> str:
    """The mark that an event counts for."""
    name = _MARK_OF.get(event.kind, "unknown")
    return _MACHINE_MARKS.get(name, name) if event.machine else name


def _event(event: DeliveryEvent) -> StateFields:
    name = mark_of(event)
    found: StateFields = {name: _mark(event.event_id, event.occurred_at, event.recorded_at)}
    if name in _DETAIL_OF:
        found[_DETAIL_OF[name]] = _detail(event, name, event.bounce_type, event.bounce_subtype)
    if event.provider_message_id:
        found["provider_ids"] = ((event.provider, short_id(event.provider_message_id)),)
    if event.corrects is not None:
        detail = found.get(_DETAIL_OF.get(name, ""))
        found["corrected"] = (_corrected(event, event.corrects, name, detail),)
    return found


def _corrected(
    fact: DeliveryEvent | Retraction, told: Correction, mark: str, detail: EventDetail | None
) -> CorrectedEvent:
    return CorrectedEvent(
        was=told.was,
        mark=mark,
        id=id_hash(fact.event_id),
        revision=told.revision,
        recorded=told.at,
        detail=detail,
    )


def _ack(ack: Ack) -> StateFields:
    name = _MARK_OF_ACK.get(type(ack), "unknown")
    mark = _mark(ack.event_id, ack.occurred_at, ack.recorded_at)
    found: StateFields = {name: mark}
    if isinstance(ack, Acked):
        if ack.means_delivered:
            found["delivered"] = mark
        if ack.provider_message_id:
            found["provider_ids"] = ((ack.provider, short_id(ack.provider_message_id)),)
    elif name in _DETAIL_OF:
        reason = ack.reason if isinstance(ack, Dropped | Failed) else ""
        found[_DETAIL_OF[name]] = _detail(ack, name, reason, "")
    return found


def _request(request: SendRequest) -> StateFields:
    # One fact however often it is repeated: the caller's identity made the email_id.
    mark = _mark(request.email_id, request.recorded_at, request.recorded_at)
    return {"accepted": mark, "request": request}


def _conversion(result: ConversionResult) -> StateFields:
    if result.outcome not in _SETTLING_OUTCOMES:
        return {}
    at = min(result.occurred_at, result.recorded_at)
    return {"settled": {result.word: Settlement(outcome=result.outcome, at=at)}}


def _mark(event_id: str, occurred_at: Millis, recorded_at: Millis) -> Mark:
    """A source's clock in the future must not win: it counts as the time at which we heard of it."""
    at = occurred_at if occurred_at < recorded_at else recorded_at
    return Mark(first=at, last=at, recorded=recorded_at, ids=(id_hash(event_id),))


def _detail(fact: DeliveryEvent | Ack, name: str, kind: str, subtype: str) -> EventDetail:
    return EventDetail(
        at=min(fact.occurred_at, fact.recorded_at),
        recorded=fact.recorded_at,
        event_id=fact.event_id,
        type=kind[:MAX_WORD_CHARS],
        subtype=subtype[:MAX_WORD_CHARS],
        code=fact.code,
        enhanced=fact.enhanced[:MAX_WORD_CHARS],
        text=fact.text[:MAX_TEXT_CHARS],
        provider=fact.provider,
        bounce_class=_bounce_class(fact) if name == "bounced" else None,
    )


def _bounce_class(fact: DeliveryEvent | Ack) -> BounceClass:
    told = fact.bounce_class if isinstance(fact, DeliveryEvent) else None
    return told or bounce_class(fact.code, fact.enhanced, fact.text)
