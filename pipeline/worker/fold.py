"""The fold: joins one fact into the state of its email. Pure; order and repeats of facts make no difference.

`evolve` is a join: ``evolve(state, fact) == merge(state, state_of_fact(fact))``. :func:`parts` alone defines what a
fact means, :mod:`topics.join` alone how two meanings combine. :mod:`pipeline.worker.fold_batch` calls it.
"""

from typing import Any, Final

from topics.acks import Ack, Acked, Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult
from topics.events import BounceClass, Correction, DeliveryEvent, EventKind, Retraction
from topics.ids import id_hash, short_id
from topics.join import DETAILS, absorb
from topics.record import Millis
from topics.refusals import bounce_class
from topics.requests import SendRequest
from topics.states import CorrectedEvent, EmailState, EventDetail, Mark, Settlement

MAX_TEXT_CHARS: Final = 4_000
"""Characters that a state keeps of a reply's text, because every change repeats it; the timeline has the whole text."""
MAX_WORD_CHARS: Final = 300
"""Characters that a state keeps of a provider's type, subtype or enhanced status code."""

StateFields = dict[str, Any]
"""Fields of an EmailState that one fact sets, by name."""

# A provider defers an email after it accepted it ("delayed"), we defer before that ("deferred"). Two marks, because
# clocks cannot decide which deferral was the later one.
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
    """Return the state with the fact joined in; ``state`` itself where the fact adds nothing.

    Raises ValueError for a fact of another email, which is a bug of the caller.
    """
    if state is None:
        return state_of_fact(fact)
    if state.email_id != fact.email_id:
        raise ValueError(f"a fact of {fact.email_id} doesn't belong to the state of {state.email_id}")
    return absorb(state, parts(fact))


def state_of_fact(fact: Fact) -> EmailState:
    """Return the state of one fact alone."""
    return EmailState(email_id=fact.email_id, **parts(fact))


def parts(fact: Fact) -> StateFields:
    """Return the state's fields that one fact sets."""
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
    """Return the name of the mark that an event counts for."""
    name = _MARK_OF.get(event.kind, "unknown")
    return _MACHINE_MARKS.get(name, name) if event.machine else name


def _event(event: DeliveryEvent) -> StateFields:
    name = mark_of(event)
    fields: StateFields = {name: _mark(event.event_id, event.occurred_at, event.recorded_at)}
    if name in _DETAIL_OF:
        fields[_DETAIL_OF[name]] = _detail(event, name, event.bounce_type, event.bounce_subtype)
    if event.provider_message_id:
        fields["provider_ids"] = ((event.provider, short_id(event.provider_message_id)),)
    if event.corrects is not None:
        detail = fields.get(_DETAIL_OF.get(name, ""))
        fields["corrected"] = (_corrected(event, event.corrects, name, detail),)
    return fields


def _corrected(
    fact: DeliveryEvent | Retraction, correction: Correction, mark: str, detail: EventDetail | None
) -> CorrectedEvent:
    return CorrectedEvent(
        was=correction.was,
        mark=mark,
        id=id_hash(fact.event_id),
        revision=correction.revision,
        recorded=correction.at,
        detail=detail,
    )


def _ack(ack: Ack) -> StateFields:
    name = _MARK_OF_ACK.get(type(ack), "unknown")
    mark = _mark(ack.event_id, ack.occurred_at, ack.recorded_at)
    fields: StateFields = {name: mark}
    if isinstance(ack, Acked):
        if ack.means_delivered:
            fields["delivered"] = mark
        if ack.provider_message_id:
            fields["provider_ids"] = ((ack.provider, short_id(ack.provider_message_id)),)
    elif name in _DETAIL_OF:
        reason = ack.reason if isinstance(ack, Dropped | Failed) else ""
        fields[_DETAIL_OF[name]] = _detail(ack, name, reason, "")
    return fields


def _request(request: SendRequest) -> StateFields:
    # All repeats of a request are one fact: the email_id is made from the caller's identity of the message.
    mark = _mark(request.email_id, request.recorded_at, request.recorded_at)
    return {"accepted": mark, "request": request}


def _conversion(result: ConversionResult) -> StateFields:
    if result.outcome not in _SETTLING_OUTCOMES:
        return {}
    at = min(result.occurred_at, result.recorded_at)
    return {"settled": {result.word: Settlement(outcome=result.outcome, at=at)}}


def _mark(event_id: str, occurred_at: Millis, recorded_at: Millis) -> Mark:
    """Return the mark of one fact; a time in the future counts as the time at which we recorded the fact."""
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
    provider_class = fact.bounce_class if isinstance(fact, DeliveryEvent) else None
    return provider_class or bounce_class(fact.code, fact.enhanced, fact.text)
