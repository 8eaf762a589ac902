"""A name in, everything that happened to the emails it names out, in causal order, and what each waits for.

A name is an email_id, an activity.id, an address or a provider's message id. What isn't projected
yet is looked for at the end of the log, in the one partition where it must lie.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipeline.dispatch.correlation.parked import ParkedEvent, find_parked_events
from pipeline.operations.engagement import EngagementCount, engagement_counts, suspected_machines
from pipeline.operations.log_lookup import stories_on_log
from pipeline.operations.pending import format_time, pending_reasons
from pipeline.runtime.bootstrap import Runtime
from projections import postgres
from projections.postgres import EmailHistory, TimelineFact
from projections.steps import fact_kind, fact_occurred_at
from topics.acks import Acked, Deferred, Dropped, Failed
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import Correction, DeliveryEvent, Retraction
from topics.readings import email_status, owed_words
from topics.record import EmailId, Millis
from topics.requests import SendRequest

MAX_TRACED_EMAILS: Final = 10
"""Emails told in full; the others are counted."""


class TraceLine(msgspec.Struct, frozen=True):
    """One thing that happened."""

    at: Millis
    recorded_at: Millis
    what: str
    details: str
    places: list[str]


class Trace(msgspec.Struct, frozen=True):
    """One email's story, told."""

    email_id: EmailId
    tenant: str
    brand: str
    recipient: str
    identity: str
    status: str
    version: int
    projected: bool
    lines: list[TraceLine]
    counts: list[EngagementCount]
    """Opens and clicks, raw and human."""
    conversions: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    waits_for: list[str]


class TraceResult(msgspec.Struct, frozen=True):
    """The newest emails that go by the name; ``more`` of them are not told."""

    traces: list[Trace]
    more: bool
    parked: list[ParkedEvent] = []
    """Events that wait under this name for the ack that says whose they are."""


async def find(rt: Runtime, name: str, tenant: str | None = None) -> TraceResult:
    """What is known of the emails that go by ``name``."""
    async with rt.pool.connection() as connection, connection.transaction():
        await postgres.begin_snapshot(connection)
        ids = await postgres.find_emails_by_any_id(connection, name, tenant, MAX_TRACED_EMAILS + 1)
        stories = [
            story
            for email_id in ids[:MAX_TRACED_EMAILS]
            if (story := await postgres.find_email_history(connection, email_id))
        ]
        parked = await find_parked_events(connection, name)
    if not stories:
        stories = await stories_on_log(rt, name, tenant)
    now = rt.clock()
    return TraceResult([trace_of(story, now) for story in stories], len(ids) > MAX_TRACED_EMAILS, parked)


def trace_of(story: EmailHistory, now: Millis) -> Trace:
    """A story in words."""
    request = story.state.request
    facts = [told.fact for told in story.timeline]
    suspected = suspected_machines(facts)
    return Trace(
        email_id=story.state.email_id,
        tenant="" if request is None else request.tenant,
        brand="" if request is None else request.brand,
        recipient="" if request is None else request.recipient,
        identity="" if request is None else request.identity,
        status=email_status(story.state).value,
        version=story.version,
        projected=story.version > 0,
        lines=[_line(told, suspected) for told in in_causal_order(story.timeline)],
        counts=engagement_counts(facts),
        conversions=_conversions(story),
        jobs=story.jobs,
        waits_for=pending_reasons(story, now),
    )


def in_causal_order(timeline: list[TimelineFact]) -> list[TimelineFact]:
    """By when we recorded it, but no effect before its cause: clocks of several machines don't agree to the ms."""
    words: dict[ConversionWord, Millis] = {}
    for told in timeline:
        for word in _owes(told.fact):
            words[word] = min(told.fact.recorded_at, words.get(word, told.fact.recorded_at))

    def order(told: TimelineFact) -> tuple[int, Millis, int, Millis, list[str]]:
        fact, at = told.fact, told.fact.recorded_at
        if isinstance(fact, ConversionResult):
            return 1, max(at, words.get(fact.word, at)), 1, fact.attempt, told.places
        return int(not isinstance(fact, SendRequest)), at, 0, fact_occurred_at(fact), told.places

    return sorted(timeline, key=order)


_OWES: Final = {"opened": "open", "clicked": "click", "bounced": "bounce", "rejected": "bounce", "complained": "spam"}


def _owes(fact: Fact) -> list[ConversionWord]:
    """The words that a fact may make true."""
    name = _OWES.get(fact_kind(fact), fact_kind(fact))
    if isinstance(fact, Acked):
        return [ConversionWord.DELIVERED] if fact.means_delivered else []
    return [ConversionWord(name)] if name in set(ConversionWord) and not getattr(fact, "machine", "") else []


def _line(told: TimelineFact, suspected: Mapping[str, str]) -> TraceLine:
    fact = told.fact
    what = f"conversion {fact.word} {fact.outcome}" if isinstance(fact, ConversionResult) else fact_kind(fact)
    details = _details(fact)
    if getattr(fact, "machine", ""):
        what += " by a machine"
    elif isinstance(fact, DeliveryEvent) and fact.event_id in suspected:
        details.append(f"not counted as a human's: {suspected[fact.event_id]}")
    return TraceLine(fact_occurred_at(fact), fact.recorded_at, what, "; ".join(filter(None, details)), told.places)


def _details(fact: Fact) -> list[str]:
    if isinstance(fact, SendRequest):
        return _request(fact)
    if isinstance(fact, DeliveryEvent):
        return _event(fact)
    if isinstance(fact, Retraction):
        return [f"by {fact.provider}", _corrected(fact.corrects), "it goes by another id"]
    if isinstance(fact, ConversionResult):
        answer = f"HTTP {fact.status}" if fact.status else "no answer"
        return [f"attempt {fact.attempt}", f"to {fact.destination}", answer, fact.detail]
    own = [f"attempt {fact.attempt}", f"by {fact.provider}" if fact.provider else "", _words(fact)]
    if isinstance(fact, Acked):
        own.append(f"known there as {fact.provider_message_id}" if fact.provider_message_id else "")
    if isinstance(fact, Deferred):
        own.append(f"again at {format_time(fact.next_attempt_at)}")
    if isinstance(fact, Dropped | Failed):
        own.append(fact.reason)
    return own


def _request(fact: SendRequest) -> list[str]:
    content = fact.content
    where = f"content {content.partition}/{content.offset} ({content.chunks} chunks)" if content else "no content"
    return [f"tenant {fact.tenant}", f"brand {fact.brand}", f"dialect {fact.dialect}", f"to {fact.recipient}", where]


def _event(fact: DeliveryEvent) -> list[str]:
    return [
        f"by {fact.provider}",
        fact.machine,
        " ".join(filter(None, (fact.bounce_class or "", fact.bounce_type, fact.bounce_subtype))),
        _words(fact),
        fact.url,
        fact.user_agent,
        "" if fact.corrects is None else _corrected(fact.corrects),
    ]


def _corrected(told: Correction) -> str:
    return f"corrected at {format_time(told.at)}, it counted as {told.was or 'nothing'}"


def _words(fact: Any) -> str:
    """Codes and text as the server said them."""
    return " ".join(filter(None, (str(fact.code or ""), fact.enhanced, fact.text)))


def _conversions(story: EmailHistory) -> list[dict[str, Any]]:
    """Each word that is owed or was booked: what became of it, in the order in which they are told."""
    jobs = {job["name"]: job for job in story.jobs if job["queue"] == "emit"}
    attempts = [told.fact for told in story.timeline if isinstance(told.fact, ConversionResult)]
    known = owed_words(story.state)
    booked = [word for word in ConversionWord if word in jobs and word not in known]
    words = sorted([*known, *booked], key=lambda word: jobs[word]["seq"] if word in jobs else 99)
    return [_conversion(story, word, jobs.get(word), attempts) for word in words]


def _conversion(
    story: EmailHistory, word: ConversionWord, job: dict[str, Any] | None, attempts: list[ConversionResult]
) -> dict[str, Any]:
    settled = story.state.settled.get(word)
    return {
        "word": word.value,
        "outcome": settled.outcome.value if settled else "owed" if job else "not told",
        "attempts": sum(1 for fact in attempts if fact.word is word and fact.outcome is not ConversionOutcome.REPLAYED),
        "job": job,
    }
