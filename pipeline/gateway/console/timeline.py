"""Prepare the timeline of one email for its page: each fact with its cause, its details and the provider's own words.

Nothing here does I/O. The order is that of `mailfold trace`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.operations.engagement import suspected_machines
from pipeline.operations.pending import format_duration, format_time
from pipeline.webhooks.redaction import redact_all
from projections.row_changes import fact_kind, fact_occurred_at
from projections.timeline import TimelineFact, in_causal_order
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult
from topics.events import DeliveryEvent, Retraction
from topics.record import Millis
from topics.requests import SendRequest

IDLE_TIME_MS: Final = 60_000
"""Time without a fact that the timeline names."""
MAX_SHOWN_PLACES: Final = 5
CODES_MAX_CHARS: Final = 16
"""Characters at the beginning of a reply in which its codes may stand, as in `550 5.1.1 no such user`."""
FAILURE_KINDS: Final = frozenset({"bounced", "rejected", "dropped", "failed", "deferred", "complained"})
KIND_OF_ACK: Final = {"acked": "sent", "rejected": "bounced"}
WORD_OF_OUTCOME: Final = {
    ConversionOutcome.RETRYING: "failed, tried again",
    ConversionOutcome.REPLAYED: "replayed by a person",
    ConversionOutcome.GIVEN_UP: "given up",
    ConversionOutcome.REFUSED: "refused",
    ConversionOutcome.DELIVERED: "told",
}
SOURCE_OF_EVENT: Final = {"pixel": "the pixel", "click": "a link", "trap": "the link that no person sees"}


@dataclass(frozen=True)
class ConsoleTimelineEntry:
    """One fact, prepared for display."""

    at: Millis
    """By the source's clock."""
    recorded_at: Millis
    title: str
    colour: str
    is_failure: bool
    by: str = ""
    """Who reported it."""
    words: str = ""
    """What the other side said, with its codes."""
    details: tuple[tuple[str, str], ...] = ()
    places: tuple[str, ...] = ()
    repeats: int = 0
    """How often the same fact came again."""
    idle: str = ""
    """How long nothing had happened before; empty for a short time."""


def timeline_entries(
    timeline: Sequence[TimelineFact], *, masks_addresses: bool, failures_only: bool = False
) -> list[ConsoleTimelineEntry]:
    """Return the entries of an email's timeline, the first fact first."""
    suspected = suspected_machines([entry.fact for entry in timeline])
    entries: list[ConsoleTimelineEntry] = []
    previous: Millis | None = None
    for fact in in_causal_order(list(timeline)):
        entry = _entry(fact, suspected)
        if failures_only and not entry.is_failure:
            continue
        idle_ms = 0 if previous is None else entry.recorded_at - previous
        previous = entry.recorded_at
        if idle_ms >= IDLE_TIME_MS:
            entry = replace(entry, idle=format_duration(idle_ms))
        entries.append(_masked(entry) if masks_addresses else entry)
    return entries


def reply_text(fact: Any) -> str:
    """Return the codes and the text of a server's reply; codes that the text begins with already stand once."""
    codes = [str(code) for code in (fact.code, fact.enhanced) if code]
    words = [code for code in codes if code not in fact.text[:CODES_MAX_CHARS].split()]
    return " ".join([*words, fact.text] if fact.text else codes)


def _entry(entry: TimelineFact, suspected: Mapping[str, str]) -> ConsoleTimelineEntry:
    fact = entry.fact
    kind = KIND_OF_ACK.get(fact_kind(fact), fact_kind(fact))
    shown = ConsoleTimelineEntry(
        at=fact_occurred_at(fact),
        recorded_at=fact.recorded_at,
        title=kind,
        colour=_colour(kind),
        is_failure=kind in FAILURE_KINDS,
        places=tuple(entry.places[:MAX_SHOWN_PLACES]),
        repeats=len(entry.places) - 1,
    )
    if isinstance(fact, SendRequest):
        return replace(shown, title="accepted", by=f"by the API {fact.dialect}", details=_request_details(fact))
    if isinstance(fact, ConversionResult):
        return _conversion_entry(shown, fact)
    if isinstance(fact, DeliveryEvent):
        return _event_entry(shown, fact, suspected.get(fact.event_id, ""))
    if isinstance(fact, Retraction):
        return replace(shown, title="event withdrawn", by=f"by {fact.provider}", details=_correction(fact.corrects))
    return _ack_entry(shown, fact)


def _colour(kind: str) -> str:
    if kind in ("deferred", "unsubscribed"):
        return "warn"
    return "bad" if kind in FAILURE_KINDS else "good" if kind in ("delivered", "opened", "clicked") else ""


def _request_details(fact: SendRequest) -> tuple[tuple[str, str], ...]:
    content = fact.content
    template = fact.template
    return _present(
        ("brand", fact.brand),
        ("template", "" if template is None else f"{template.id}"),
        ("client's id", fact.identity),
        ("content", "" if content is None else f"message-contents/{content.partition}/{content.offset}"),
    )


def _ack_entry(shown: ConsoleTimelineEntry, fact: Fact) -> ConsoleTimelineEntry:
    assert isinstance(fact, Acked | Deferred | Rejected | Dropped | Failed)
    details = [("attempt", str(fact.attempt))]
    if isinstance(fact, Acked):
        details.append(("known there as", fact.provider_message_id))
        if fact.means_delivered:
            details.append(("means", "final delivery"))
    if isinstance(fact, Deferred):
        details.append(("next attempt", f"{format_time(fact.next_attempt_at)[:19]}"))
    if isinstance(fact, Dropped | Failed):
        details.append(("why", fact.reason))
    by = f"by {fact.provider}" if fact.provider else "by Mailfold"
    return replace(shown, by=by, words=reply_text(fact), details=_present(*details))


def _event_entry(shown: ConsoleTimelineEntry, fact: DeliveryEvent, suspicion: str) -> ConsoleTimelineEntry:
    is_machine = bool(fact.machine or suspicion)
    bounce_words = " ".join(filter(None, (fact.bounce_class or "", fact.bounce_type, fact.bounce_subtype)))
    return replace(
        shown,
        title=f"{shown.title} by a machine" if is_machine else shown.title,
        colour="" if is_machine else shown.colour,
        by=f"reported by {SOURCE_OF_EVENT.get(fact.provider, fact.provider)}",
        words=reply_text(fact),
        details=_present(
            ("kind", bounce_words),
            ("machine", fact.machine or suspicion),
            ("link", fact.url),
            ("program", fact.user_agent),
            *(_correction(fact.corrects) if fact.corrects is not None else ()),
        ),
    )


def _correction(correction: Any) -> tuple[tuple[str, str], ...]:
    text = f"at {format_time(correction.at)[:19]}; it counted as {correction.was or 'nothing'} before"
    return (("corrected", text),)


def _conversion_entry(shown: ConsoleTimelineEntry, fact: ConversionResult) -> ConsoleTimelineEntry:
    is_told = fact.outcome is ConversionOutcome.DELIVERED
    is_neutral = fact.outcome is ConversionOutcome.REPLAYED
    return replace(
        shown,
        title=f"conversion {fact.word}: {WORD_OF_OUTCOME[fact.outcome]}",
        colour="good" if is_told else "" if is_neutral else "bad",
        is_failure=not is_told and not is_neutral,
        by="" if is_neutral else f"to {fact.destination}",
        words=" ".join(filter(None, (f"HTTP {fact.status}" if fact.status else "no answer", fact.detail)))
        if not is_neutral
        else "",
        details=_present(("attempt", str(fact.attempt))),
    )


def _present(*details: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the details that have a value."""
    return tuple((name, value) for name, value in details if value)


def _masked(entry: ConsoleTimelineEntry) -> ConsoleTimelineEntry:
    """Return an entry without anything that looks like an address."""
    details = tuple((name, redact_all(value)) for name, value in entry.details)
    return replace(entry, words=redact_all(entry.words), details=details)
