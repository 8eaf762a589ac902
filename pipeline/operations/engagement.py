"""Count opens and clicks with and without those that look like a machine's; `mailfold trace` calls it.

Circumstances are no proof: a person who waits for a mail clicks within seconds, and a person behind a link scanner has
its user agent. So they change counts only, and never which conversions are sent, because a sent conversion cannot be
revoked; :mod:`pipeline.webhooks.bots` decides that. Nothing here does I/O.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from pipeline.webhooks import bots
from topics.acks import Acked
from topics.changes import Fact
from topics.events import DeliveryEvent, EventKind
from topics.record import Millis

AT_DELIVERY: Final = "seconds-after-delivery"
EVERY_LINK: Final = "every-link-at-once"
WITH_TRAP: Final = "by-who-followed-the-trap"

DELIVERY_SCAN_WINDOW_MS: Final = 5_000
"""A click within this time looks like that of a scanner, which follows links during the delivery; a person has to read
first. It may be before or after the delivery, as the two times come from different clocks."""
CLICK_BURST_WINDOW_MS: Final = 3_000
MIN_BURST_LINKS: Final = 3
"""Different links of one mail clicked within CLICK_BURST_WINDOW_MS; nobody reads three pages in three seconds."""
TRAP_SCAN_WINDOW_MS: Final = 60_000
"""The duration of one scan. A client is recognised by its user agent only, so that a longer window would also match
people with the same one."""

_COUNTED: Final = (EventKind.OPENED, EventKind.CLICKED)


class EngagementCount(msgspec.Struct, frozen=True):
    """The number of opens or of clicks, with and without those by machines."""

    kind: EventKind
    raw: int
    human: int
    machines: Mapping[str, int]
    """Events by machines, by reason, including those that circumstances make suspicious."""


def suspected_machines(facts: Iterable[Fact]) -> dict[str, str]:
    """Return the ids of opens and clicks that look like a machine's, with the reason.

    Events that are already labelled as a machine's are not among them.
    """
    timeline = list(facts)
    events = [fact for fact in timeline if isinstance(fact, DeliveryEvent) and fact.kind in _COUNTED]
    clicks = [event for event in events if event.kind is EventKind.CLICKED and event.machine != bots.TRAP]
    reasons = dict.fromkeys(_clicks_at_delivery(clicks, _delivered_at(timeline)), AT_DELIVERY)
    reasons |= dict.fromkeys(_clicks_in_bursts(clicks), EVERY_LINK)
    reasons |= dict.fromkeys(_events_beside_trap(events), WITH_TRAP)
    labelled = {event.event_id for event in events if event.machine}
    return {event_id: reason for event_id, reason in reasons.items() if event_id not in labelled}


def engagement_counts(facts: Iterable[Fact]) -> list[EngagementCount]:
    """Return the counts of opens and of clicks, each only if there are any."""
    timeline = list(facts)
    suspected = suspected_machines(timeline)
    counts = []
    for kind in _COUNTED:
        events = {fact.event_id: fact for fact in timeline if isinstance(fact, DeliveryEvent) and fact.kind is kind}
        reasons = [
            reason for event in events.values() if (reason := event.machine or suspected.get(event.event_id, ""))
        ]
        if events:
            machines = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
            counts.append(EngagementCount(kind, len(events), len(events) - len(reasons), machines))
    return counts


def _delivered_at(facts: Sequence[Fact]) -> Millis | None:
    """Return the first delivery that the provider reported, else the first ack; None if there is neither."""
    delivered = [_at(fact) for fact in facts if isinstance(fact, DeliveryEvent) and fact.kind is EventKind.DELIVERED]
    return min(delivered or [_at(fact) for fact in facts if isinstance(fact, Acked)], default=None)


def _clicks_at_delivery(clicks: Sequence[DeliveryEvent], delivered_at: Millis | None) -> list[str]:
    if delivered_at is None:
        return []
    return [click.event_id for click in clicks if abs(_at(click) - delivered_at) <= DELIVERY_SCAN_WINDOW_MS]


def _clicks_in_bursts(clicks: Sequence[DeliveryEvent]) -> list[str]:
    """Return the ids of clicks in any window of CLICK_BURST_WINDOW_MS with at least MIN_BURST_LINKS links."""
    ordered = sorted(clicks, key=_at)
    event_ids: set[str] = set()
    first = 0
    for last, click in enumerate(ordered):
        while _at(click) - _at(ordered[first]) > CLICK_BURST_WINDOW_MS:
            first += 1
        window = ordered[first : last + 1]
        if len({event.url for event in window}) >= MIN_BURST_LINKS:
            event_ids.update(event.event_id for event in window)
    return sorted(event_ids)


def _events_beside_trap(events: Sequence[DeliveryEvent]) -> list[str]:
    """Return the ids of events near a click on the trap link by the same user agent."""
    traps = [event for event in events if event.machine == bots.TRAP]
    return [
        event.event_id
        for event in events
        if any(
            event.user_agent == trap.user_agent and abs(_at(event) - _at(trap)) <= TRAP_SCAN_WINDOW_MS for trap in traps
        )
    ]


def _at(fact: DeliveryEvent | Acked) -> Millis:
    """Return the time by the source's clock, or by ours if that is earlier: the source's clock is then ahead."""
    return min(fact.occurred_at, fact.recorded_at)
