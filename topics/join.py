"""`merge`: the least upper bound of two partial states of one email.

Associative, commutative and idempotent, field by field: marks by minima, maxima and bounded
unions, details and requests by a total order, settlements by the strongest outcome.
"""

from typing import Any, Final

import msgspec

from topics.conversions import Outcome, Word
from topics.requests import SendRequest
from topics.states import Detail, EmailState, Mark, Settlement

SKETCH: Final = 32
"""Ids kept of a kind that anybody can repeat at will: exact counts up to 32 live in the state,
exact counts without bound in the timeline."""

SKETCHED: Final = frozenset({"opened", "opened_machine", "clicked", "clicked_machine", "unknown", "replied"})
MARKS: Final = tuple(field.name for field in msgspec.structs.fields(EmailState) if field.type == (Mark | None))
DETAILS: Final = ("bounce", "complaint", "drop", "failure")
_STRENGTH: Final = {outcome: rank for rank, outcome in enumerate(Outcome)}


def merge(a: EmailState, b: EmailState) -> EmailState:
    """The state of the union of both states' facts.

    Raises ValueError where the two speak of different emails: that is a caller's bug.
    """
    if a.email_id != b.email_id:
        raise ValueError(f"states of two emails can't be merged: {a.email_id} and {b.email_id}")
    if a == b:
        return a
    joined: dict[str, Any] = {"email_id": a.email_id}
    for name in MARKS:
        joined[name] = join_marks(getattr(a, name), getattr(b, name), sketched=name in SKETCHED)
    for name in DETAILS:
        joined[name] = smaller_detail(getattr(a, name), getattr(b, name))
    joined["request"] = earlier_request(a.request, b.request)
    joined["provider_ids"] = tuple(sorted({*a.provider_ids, *b.provider_ids}))
    joined["settled"] = _join_settled(a.settled, b.settled)
    return EmailState(**joined)


def join_marks(a: Mark | None, b: Mark | None, *, sketched: bool) -> Mark | None:
    """Both marks' evidence in one."""
    if a is None or b is None:
        return b if a is None else a
    ids = a.ids if a.ids == b.ids else tuple(sorted({*a.ids, *b.ids}))
    return Mark(
        first=min(a.first, b.first),
        last=max(a.last, b.last),
        recorded=min(a.recorded, b.recorded),
        ids=ids[:SKETCH] if sketched else ids,
    )


def smaller_detail(a: Detail | None, b: Detail | None) -> Detail | None:
    """The detail that every order of arrival agrees on: the earliest, then the smallest."""
    if a is None or b is None:
        return b if a is None else a
    return min(a, b, key=_detail_order)


def earlier_request(a: SendRequest | None, b: SendRequest | None) -> SendRequest | None:
    """The first acceptance wins; equal times are told apart by content, so that order never matters."""
    if a is None or b is None:
        return b if a is None else a
    return min(a, b, key=_request_order)


def stronger(a: Settlement, b: Settlement) -> Settlement:
    """Delivered beats refused beats given up; among equals the earlier."""
    return max(a, b, key=lambda settlement: (_STRENGTH[settlement.outcome], -settlement.at))


def _join_settled(a: dict[Word, Settlement], b: dict[Word, Settlement]) -> dict[Word, Settlement]:
    joined = dict(a)
    for word, settlement in b.items():
        joined[word] = stronger(joined[word], settlement) if word in joined else settlement
    # One order of keys, so that equal states are equal bytes too.
    return dict(sorted(joined.items()))


def _request_order(request: SendRequest) -> tuple[int, bytes]:
    return request.recorded_at, msgspec.json.encode(request)


def _detail_order(detail: Detail) -> tuple[int, int, bytes]:
    return detail.at, detail.recorded, msgspec.json.encode(detail)
