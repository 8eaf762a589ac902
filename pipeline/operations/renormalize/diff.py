"""What a webhook says as it is read today and what was told of it then in; what is to be told now out. Pure.

An event is known by its email and its id. Of several webhooks that repeated it, the timeline holds
the one that was read first, and its `recorded_at` is when that one came: only it is compared, so
that a repeat in other words is no correction, and a second run finds nothing left to do.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

import msgspec

from pipeline.worker.fold import mark_of
from projections.steps import fact_revision
from topics.changes import Fact
from topics.events import Correction, DeliveryEvent, Retraction
from topics.record import EmailId, Millis

EventKey = tuple[EmailId, str]
"""An email, and the id of one of its events."""

Timeline = Mapping[EventKey, Fact]
"""What was told, in its newest reading."""

_NULL = msgspec.Raw(b"null")


class DiffKind(Enum):
    """What became of one event."""

    SAME = auto()
    REPEAT = auto()
    """Another webhook told it first."""
    NEW = auto()
    CHANGED = auto()


class EventDiff(msgspec.Struct, frozen=True):
    """A verdict, and the event to append, if any."""

    kind: DiffKind
    event: DeliveryEvent | None = None


def diff_event(read: DeliveryEvent, known: Fact | None, now: Millis) -> EventDiff:
    """One event of a webhook beside what the timeline holds under its name."""
    if known is None:
        return EventDiff(DiffKind.NEW, read)
    if not isinstance(known, DeliveryEvent | Retraction) or known.recorded_at != read.recorded_at:
        return EventDiff(DiffKind.REPEAT)
    if isinstance(known, DeliveryEvent) and _meaning(known) == _meaning(read):
        return EventDiff(DiffKind.SAME)
    return EventDiff(DiffKind.CHANGED, msgspec.structs.replace(read, corrects=_correction(known, now)))


def retractions_of_changed_ids(read: Sequence[DeliveryEvent], timeline: Timeline, now: Millis) -> list[Retraction]:
    """Events of the same webhook, in the very same words, that were told under an id that they have no more.

    What the provider said of an event stays the same, however its id is made of it.
    """
    names = {(one.email_id, one.event_id) for one in read}
    words = {(one.email_id, one.provider, one.recorded_at, bytes(one.native)) for one in read if one.native != _NULL}
    return [
        _retraction(known, now)
        for name, known in timeline.items()
        if isinstance(known, DeliveryEvent)
        and name not in names
        and (known.email_id, known.provider, known.recorded_at, bytes(known.native)) in words
    ]


def unique_events(events: Iterable[DeliveryEvent]) -> list[DeliveryEvent]:
    """A webhook may hold one event twice."""
    found: dict[EventKey, DeliveryEvent] = {}
    for event in events:
        found.setdefault((event.email_id, event.event_id), event)
    return list(found.values())


def _meaning(event: DeliveryEvent) -> DeliveryEvent:
    """Our words; the provider's own are no mapping's."""
    return msgspec.structs.replace(event, corrects=None, native=_NULL)


def _correction(known: DeliveryEvent | Retraction, now: Millis) -> Correction:
    was = mark_of(known) if isinstance(known, DeliveryEvent) else ""
    return Correction(revision=fact_revision(known) + 1, was=was, at=now)


def _retraction(known: DeliveryEvent, now: Millis) -> Retraction:
    return Retraction(
        email_id=known.email_id,
        event_id=known.event_id,
        occurred_at=known.occurred_at,
        recorded_at=known.recorded_at,
        provider=known.provider,
        corrects=_correction(known, now),
    )
