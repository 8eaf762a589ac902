"""`merge`: the least upper bound of two partial states of one email.

Associative, commutative and idempotent, because each field has a join of its own (:data:`JOINS`):
marks by minima, maxima and bounded unions, details and requests by a total order, settlements by
the strongest outcome, corrections by the highest revision. The fold joins single facts in through
the same functions (:func:`absorb`), so there is one definition of every field's join.
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
"""Ids kept of each kind of event: exact counts below 32 live in the state, exact counts without bound in the
timeline. Every kind is bounded: whoever received an email can repeat a report about it as often as they like."""

MAX_PROVIDER_IDS: Final = 16
"""Provider ids kept: a provider may name one email anew with each event."""

MAX_CORRECTIONS: Final = 256
"""Corrections kept of one email; of those between the same two kinds at most :data:`SKETCH`."""

MARKS: Final = tuple(field.name for field in msgspec.structs.fields(EmailState) if field.type == (Mark | None))
DETAILS: Final = {"bounce": "bounced", "complaint": "complained", "drop": "dropped", "failure": "failed"}
"""Each detail and the mark it belongs to."""
_OUTCOME_STRENGTH: Final = {outcome: rank for rank, outcome in enumerate(ConversionOutcome)}


def merge(a: EmailState, b: EmailState) -> EmailState:
    """The state of the union of both states' facts.

    Raises ValueError where the two speak of different emails: that is a caller's bug.
    """
    if a.email_id != b.email_id:
        raise ValueError(f"states of two emails can't be merged: {a.email_id} and {b.email_id}")
    within = bounded_state(b)
    return absorb(bounded_state(a), {name: getattr(within, name) for name in JOINS})


def bounded_state(state: EmailState) -> EmailState:
    """Return the state within its bounds: one that an older version stored may hold any number of ids."""
    changed: dict[str, Any] = {
        name: msgspec.structs.replace(mark, ids=mark.ids[:MAX_IDS_PER_MARK])
        for name in MARKS
        if (mark := getattr(state, name)) is not None and len(mark.ids) > MAX_IDS_PER_MARK
    }
    if len(state.corrected) > MAX_IDS_PER_MARK and (corrected := _smallest(state.corrected)) != state.corrected:
        changed["corrected"] = corrected
    return msgspec.structs.replace(state, **changed) if changed else state


def absorb(state: EmailState, parts: Mapping[str, Any]) -> EmailState:
    """``state`` joined with ``parts``, a few fields of another; ``state`` itself where they tell nothing new."""
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
    """Both marks' evidence in one, ``a`` itself where ``b`` adds none.

    The smallest ids are kept: the K smallest of a union are a join, too.
    """
    ids = a.ids
    if len(ids) > MAX_IDS_PER_MARK or not _covers(ids, b.ids):
        ids = tuple(sorted({*ids, *b.ids}))[:MAX_IDS_PER_MARK]
        if ids == a.ids:  # b's were all beyond the sketch
            ids = a.ids
    if ids is a.ids and b.first >= a.first and b.last <= a.last and b.recorded >= a.recorded:
        return a
    return Mark(first=min(a.first, b.first), last=max(a.last, b.last), recorded=min(a.recorded, b.recorded), ids=ids)


def _covers(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    # Nearly always one fact is joined in, and no generator is worth its price for one.
    if len(theirs) == 1:
        return theirs[0] in ours
    return all(one in ours for one in theirs)


def stronger_detail(a: EventDetail, b: EventDetail) -> EventDetail:
    """The detail that every order of arrival agrees on: a hard bounce's, then the earliest, then the smallest."""
    return a if a == b or _detail_order(a) <= _detail_order(b) else b


def earlier_request(a: SendRequest, b: SendRequest) -> SendRequest:
    """The first acceptance wins; equal times are told apart by content, so that order never matters."""
    if a.recorded_at != b.recorded_at:
        return a if a.recorded_at < b.recorded_at else b
    return a if a == b or msgspec.json.encode(a) <= msgspec.json.encode(b) else b


def stronger_settlement(a: Settlement, b: Settlement) -> Settlement:
    """Delivered beats refused beats given up; among equals the earlier."""
    return a if (_OUTCOME_STRENGTH[a.outcome], -a.at) >= (_OUTCOME_STRENGTH[b.outcome], -b.at) else b


ProviderIds = tuple[tuple[str, str], ...]


def join_provider_ids(a: ProviderIds, b: ProviderIds) -> ProviderIds:
    """The smallest of the union."""
    if _covers(a, b):
        return a
    joined = tuple(sorted({*a, *b}))[:MAX_PROVIDER_IDS]
    return a if joined == a else joined


def join_settled(
    a: dict[ConversionWord, Settlement], b: dict[ConversionWord, Settlement]
) -> dict[ConversionWord, Settlement]:
    """Word by word the stronger; one order of keys, so that equal states are equal bytes, too."""
    joined = {
        word: stronger_settlement(a[word], b[word]) if word in a and word in b else (a | b)[word]
        for word in sorted(a | b)
    }
    return a if joined == a else joined


def join_corrected(a: tuple[CorrectedEvent, ...], b: tuple[CorrectedEvent, ...]) -> tuple[CorrectedEvent, ...]:
    """The highest revision of each id; of those between the same two kinds, and of all, the smallest.

    What an id was is part of its key: a later correction to another kind takes no earlier one's place, so
    that the K smallest of a union are the K smallest of both sides', whatever came first.
    """
    if len(a) <= MAX_IDS_PER_MARK and all(one in a for one in b):
        return a
    joined = _smallest((*a, *b))
    return a if joined == a else joined


def _smallest(corrected: Iterable[CorrectedEvent]) -> tuple[CorrectedEvent, ...]:
    newest = {_corrected_key(one): one for one in sorted(corrected, key=_corrected_order)}
    kept: list[CorrectedEvent] = []
    many: Counter[tuple[str, str]] = Counter()
    for key in sorted(newest):
        was, mark, _ = key
        many[was, mark] += 1
        if many[was, mark] <= MAX_IDS_PER_MARK:
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
"""Each field's join. All return their first argument itself where the second adds nothing."""


def _corrected_key(one: CorrectedEvent) -> tuple[str, str, int]:
    return one.was, one.mark, one.id


def _corrected_order(one: CorrectedEvent) -> tuple[int, int, bytes]:
    """Later in this order wins: the revision decides; what is left is told apart by when and by content."""
    return one.revision, -one.recorded, msgspec.json.encode(one)


def _detail_order(detail: EventDetail) -> tuple[bool, int, int, bytes]:
    soft = detail.bounce_class is not BounceClass.HARD
    return soft, detail.at, detail.recorded, msgspec.json.encode(detail)
