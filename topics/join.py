"""The join of two partial states of one email: :func:`merge` returns their least upper bound.

It is associative, commutative and idempotent, because each field has such a join (:data:`JOINS`): marks by minima,
maxima and bounded unions, details and requests by a total order, settlements by the strongest outcome, corrections by
the highest revision. The fold joins single facts with the same functions (:func:`absorb`), so that every field's join
is defined once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import BounceClass
from topics.requests import SendRequest
from topics.states import CorrectedEvent, EmailState, EventDetail, Mark, Settlement

MAX_IDS_PER_MARK: Final = 32
"""Ids kept of each kind of event: the state has exact counts below 32, the timeline has all. Every kind is bounded,
because a recipient can cause any number of events of their email."""

MAX_PROVIDER_IDS: Final = 16
"""Provider ids kept: a provider may use a new id for one email with each event."""

MAX_CORRECTIONS: Final = 256
"""Corrections kept of one email; of those between the same two kinds at most :data:`MAX_IDS_PER_MARK`."""

MARKS: Final = tuple(field.name for field in msgspec.structs.fields(EmailState) if field.type == (Mark | None))
DETAILS: Final = {"bounce": "bounced", "complaint": "complained", "drop": "dropped", "failure": "failed"}
"""Each detail and the mark it belongs to."""
_OUTCOME_STRENGTH: Final = {outcome: rank for rank, outcome in enumerate(ConversionOutcome)}


def merge(a: EmailState, b: EmailState) -> EmailState:
    """Return the state of the union of both states' facts.

    Raises ValueError for states of different emails, which is a bug of the caller.
    """
    if a.email_id != b.email_id:
        raise ValueError(f"states of two emails can't be merged: {a.email_id} and {b.email_id}")
    bounded = bounded_state(b)
    return absorb(bounded_state(a), {name: getattr(bounded, name) for name in JOINS})


def bounded_state(state: EmailState) -> EmailState:
    """Return the state within its bounds: a state that an older version stored may hold any number of ids."""
    changed: dict[str, Any] = {
        name: msgspec.structs.replace(mark, ids=mark.ids[:MAX_IDS_PER_MARK])
        for name in MARKS
        if (mark := getattr(state, name)) is not None and len(mark.ids) > MAX_IDS_PER_MARK
    }
    if len(state.corrected) > MAX_IDS_PER_MARK and (corrected := _smallest(state.corrected)) != state.corrected:
        changed["corrected"] = corrected
    return msgspec.structs.replace(state, **changed) if changed else state


def absorb(state: EmailState, parts: Mapping[str, Any]) -> EmailState:
    """Return ``state`` joined with ``parts``, some fields of another; ``state`` itself if they add nothing."""
    changed = {}
    for name, theirs in parts.items():
        if not theirs:
            continue
        ours = getattr(state, name)
        joined = JOINS[name](ours, theirs) if ours else theirs
        if joined is not ours:
            changed[name] = joined
    return msgspec.structs.replace(state, **changed) if changed else state


def join_marks(a: Mark, b: Mark) -> Mark:
    """Return the join of two marks; ``a`` itself if ``b`` adds nothing.

    A duplicate event's id is among the ids already, so it changes nothing. The smallest ids are kept, because keeping
    the K smallest of a union is a join, too.
    """
    ids = a.ids
    if len(ids) > MAX_IDS_PER_MARK or not _covers(ids, b.ids):
        ids = tuple(sorted({*ids, *b.ids}))[:MAX_IDS_PER_MARK]
        if ids == a.ids:  # all ids of b are larger than the K smallest
            ids = a.ids
    if ids is a.ids and b.first >= a.first and b.last <= a.last and b.recorded >= a.recorded:
        return a
    return Mark(first=min(a.first, b.first), last=max(a.last, b.last), recorded=min(a.recorded, b.recorded), ids=ids)


def _covers(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    # Nearly always one fact is joined, for which a generator would be slower.
    if len(theirs) == 1:
        return theirs[0] in ours
    return all(item in ours for item in theirs)


def stronger_detail(a: EventDetail, b: EventDetail) -> EventDetail:
    """Return a hard bounce's detail before others, then the earliest, then the smallest in encoded form."""
    return a if a == b or _detail_order(a) <= _detail_order(b) else b


def earlier_request(a: SendRequest, b: SendRequest) -> SendRequest:
    """Return the earlier request; at equal times the one whose encoded form is smaller."""
    if a.recorded_at != b.recorded_at:
        return a if a.recorded_at < b.recorded_at else b
    return a if a == b or msgspec.json.encode(a) <= msgspec.json.encode(b) else b


def stronger_settlement(a: Settlement, b: Settlement) -> Settlement:
    """Return the stronger settlement: delivered before refused before given up, then the earlier."""
    return a if (_OUTCOME_STRENGTH[a.outcome], -a.at) >= (_OUTCOME_STRENGTH[b.outcome], -b.at) else b


ProviderIds = tuple[tuple[str, str], ...]


def join_provider_ids(a: ProviderIds, b: ProviderIds) -> ProviderIds:
    """Return the smallest `MAX_PROVIDER_IDS` pairs of the union."""
    if _covers(a, b):
        return a
    joined = tuple(sorted({*a, *b}))[:MAX_PROVIDER_IDS]
    return a if joined == a else joined


def join_settled(
    a: dict[ConversionWord, Settlement], b: dict[ConversionWord, Settlement]
) -> dict[ConversionWord, Settlement]:
    """Return each word's stronger settlement; the keys are sorted, so that equal states have equal bytes."""
    joined = {
        word: stronger_settlement(a[word], b[word]) if word in a and word in b else (a | b)[word]
        for word in sorted(a | b)
    }
    return a if joined == a else joined


def join_corrected(a: tuple[CorrectedEvent, ...], b: tuple[CorrectedEvent, ...]) -> tuple[CorrectedEvent, ...]:
    """Return the highest revision of each key; of those between the same two kinds, and of all, the smallest ones.

    The key has the kinds before and after: a later correction to another kind does not replace an earlier one, so that
    the K smallest of a union are the K smallest of both sides' K smallest.
    """
    if len(a) <= MAX_IDS_PER_MARK and all(correction in a for correction in b):
        return a
    joined = _smallest((*a, *b))
    return a if joined == a else joined


def _smallest(corrected: Iterable[CorrectedEvent]) -> tuple[CorrectedEvent, ...]:
    newest = {_corrected_key(correction): correction for correction in sorted(corrected, key=_corrected_order)}
    kept: list[CorrectedEvent] = []
    counts: Counter[tuple[str, str]] = Counter()
    for key in sorted(newest):
        was, mark, _ = key
        counts[was, mark] += 1
        if counts[was, mark] <= MAX_IDS_PER_MARK:
            kept.append(newest[key])
    return tuple(kept[:MAX_CORRECTIONS])


JOINS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    **dict.fromkeys(MARKS, join_marks),
    **dict.fromkeys(DETAILS, stronger_detail),
    "request": earlier_request,
    "provider_ids": join_provider_ids,
    "settled": join_settled,
    "corrected": join_corrected,
}
"""Each field's join. All return their first argument itself if the second adds nothing."""


def _corrected_key(correction: CorrectedEvent) -> tuple[str, str, int]:
    return correction.was, correction.mark, correction.id


def _corrected_order(correction: CorrectedEvent) -> tuple[int, int, bytes]:
    """Return the sort key by which the last correction wins: revision, then earlier time, then encoded form."""
    return correction.revision, -correction.recorded, msgspec.json.encode(correction)


def _detail_order(detail: EventDetail) -> tuple[bool, int, int, bytes]:
    soft = detail.bounce_class is not BounceClass.HARD
    return soft, detail.at, detail.recorded, msgspec.json.encode(detail)
