"""Compare the events of a webhook with the stored timeline, and make corrections; the renormalizer calls it.

An event is identified by its email and its id. If several webhooks reported it, the timeline holds the first one, whose
arrival is its `recorded_at`. Only that one is compared, so that a repeat with other words is not a correction, and a
second run finds nothing to do. Nothing here does I/O.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

import msgspec

from pipeline.worker.fold import mark_of
from projections.row_changes import fact_revision
from topics.changes import Fact
from topics.events import Correction, DeliveryEvent, Retraction
from topics.record import EmailId, Millis

EventKey = tuple[EmailId, str]
"""An email, and the id of one of its events."""

Timeline = Mapping[EventKey, Fact]
"""The newest revision of each fact in the timeline."""

_NULL = msgspec.Raw(b"null")


class DiffKind(Enum):
    """The result of comparing one event with the timeline."""

    SAME = auto()
    REPEAT = auto()
    """Another webhook reported it first."""
    NEW = auto()
    CHANGED = auto()


class EventDiff(msgspec.Struct, frozen=True):
    """The result of a comparison, and the event to append, if any."""

    kind: DiffKind
    event: DeliveryEvent | None = None


def diff_event(event: DeliveryEvent, stored: Fact | None, now: Millis) -> EventDiff:
    """Return how an event of a webhook differs from the stored fact with the same key, if there is one."""
    if stored is None:
        return EventDiff(DiffKind.NEW, event)
    if not isinstance(stored, DeliveryEvent | Retraction) or stored.recorded_at != event.recorded_at:
        return EventDiff(DiffKind.REPEAT)
    if isinstance(stored, DeliveryEvent) and _comparable(stored) == _comparable(event):
        return EventDiff(DiffKind.SAME)
    return EventDiff(DiffKind.CHANGED, msgspec.structs.replace(event, corrects=_correction(stored, now)))


def retractions_of_changed_ids(events: Sequence[DeliveryEvent], timeline: Timeline, now: Millis) -> list[Retraction]:
    """Return retractions of stored events to which the corrected mapping gives another id.

    Such an event is recognised by its `native`: the provider's own fields stay the same when the mapping changes.
    """
    keys = {(event.email_id, event.event_id) for event in events}
    natives = {
        (event.email_id, event.provider, event.recorded_at, bytes(event.native))
        for event in events
        if event.native != _NULL
    }
    return [
        _retraction(stored, now)
        for key, stored in timeline.items()
        if isinstance(stored, DeliveryEvent)
        and key not in keys
        and (stored.email_id, stored.provider, stored.recorded_at, bytes(stored.native)) in natives
    ]


def unique_events(events: Iterable[DeliveryEvent]) -> list[DeliveryEvent]:
    """Return the events without repeats; a webhook may contain an event twice."""
    unique: dict[EventKey, DeliveryEvent] = {}
    for event in events:
        unique.setdefault((event.email_id, event.event_id), event)
    return list(unique.values())


def _comparable(event: DeliveryEvent) -> DeliveryEvent:
    """Return the event with only those fields that a mapping determines."""
    return msgspec.structs.replace(event, corrects=None, native=_NULL)


def _correction(stored: DeliveryEvent | Retraction, now: Millis) -> Correction:
    was = mark_of(stored) if isinstance(stored, DeliveryEvent) else ""
    return Correction(revision=fact_revision(stored) + 1, was=was, at=now)


def _retraction(stored: DeliveryEvent, now: Millis) -> Retraction:
    return Retraction(
        email_id=stored.email_id,
        event_id=stored.event_id,
        occurred_at=stored.occurred_at,
        recorded_at=stored.recorded_at,
        provider=stored.provider,
        corrects=_correction(stored, now),
    )
