"""An email's timeline -> which opens and clicks look like a robot's, and why; and how many there are with and without.

Circumstances prove nothing: somebody who waits for a mail clicks within seconds, and a person behind
a link scanner has its user agent. So they change counts, and never what is owed
(:mod:`pipeline.webhooks.bots` decides that): a conversion told wrongly can't be taken back. Pure.
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
"""Scanners follow links while the mail is handed over; a person has to read first. Either way of the delivery, for
two clocks tell of it."""
CLICK_BURST_WINDOW_MS: Final = 3_000
MIN_BURST_LINKS: Final = 3
"""Different links of one mail within three seconds: nobody reads three pages."""
TRAP_SCAN_WINDOW_MS: Final = 60_000
"""A client is known by its user agent, and by nothing else: so only for as long as one scan takes."""

_COUNTED: Final = (EventKind.OPENED, EventKind.CLICKED)


class EngagementCount(msgspec.Struct, frozen=True):
    """How often one thing happened: all that was heard, and what is left without machines."""

    kind: EventKind
    raw: int
    human: int
    machines: Mapping[str, int]
    """By the reason; circumstances among them."""


def suspected_machines(facts: Iterable[Fact]) -> dict[str, str]:
    """Event id -> why it looks like a robot's; only of those that don't say so themselves."""
    told = list(facts)
    heard = [fact for fact in told if isinstance(fact, DeliveryEvent) and fact.kind in _COUNTED]
    clicks = [event for event in heard if event.kind is EventKind.CLICKED and event.machine != bots.TRAP]
    found = dict.fromkeys(_at_delivery(clicks, _delivered(told)), AT_DELIVERY)
    found |= dict.fromkeys(_at_once(clicks), EVERY_LINK)
    found |= dict.fromkeys(_with_trap(heard), WITH_TRAP)
    own = {event.event_id for event in heard if event.machine}
    return {event_id: why for event_id, why in found.items() if event_id not in own}


def engagement_counts(facts: Iterable[Fact]) -> list[EngagementCount]:
    """Opens and clicks, raw and human side by side; none where nothing was heard."""
    told = list(facts)
    suspected = suspected_machines(told)
    found = []
    for kind in _COUNTED:
        events = {fact.event_id: fact for fact in told if isinstance(fact, DeliveryEvent) and fact.kind is kind}
        why = [reason for event in events.values() if (reason := event.machine or suspected.get(event.event_id, ""))]
        if events:
            machines = {reason: why.count(reason) for reason in sorted(set(why))}
            found.append(EngagementCount(kind, len(events), len(events) - len(why), machines))
    return found


def _delivered(facts: Sequence[Fact]) -> Millis | None:
    """When it could first be read: told by the provider, else when somebody took it."""
    told = [_at(fact) for fact in facts if isinstance(fact, DeliveryEvent) and fact.kind is EventKind.DELIVERED]
    return min(told or [_at(fact) for fact in facts if isinstance(fact, Acked)], default=None)


def _at_delivery(clicks: Sequence[DeliveryEvent], delivered: Millis | None) -> list[str]:
    if delivered is None:
        return []
    return [click.event_id for click in clicks if abs(_at(click) - delivered) <= DELIVERY_SCAN_WINDOW_MS]


def _at_once(clicks: Sequence[DeliveryEvent]) -> list[str]:
    """Clicks in any stretch of three seconds that holds many different links."""
    ordered = sorted(clicks, key=_at)
    found: set[str] = set()
    first = 0
    for last, click in enumerate(ordered):
        while _at(click) - _at(ordered[first]) > CLICK_BURST_WINDOW_MS:
            first += 1
        if len({one.url for one in ordered[first : last + 1]}) >= MIN_BURST_LINKS:
            found.update(one.event_id for one in ordered[first : last + 1])
    return sorted(found)


def _with_trap(heard: Sequence[DeliveryEvent]) -> list[str]:
    traps = [event for event in heard if event.machine == bots.TRAP]
    return [
        event.event_id
        for event in heard
        if any(event.user_agent == t.user_agent and abs(_at(event) - _at(t)) <= TRAP_SCAN_WINDOW_MS for t in traps)
    ]


def _at(fact: DeliveryEvent | Acked) -> Millis:
    """By the source's clock, unless that is ahead of ours."""
    return min(fact.occurred_at, fact.recorded_at)
