"""A name in, everything that happened to the emails it names out, in causal order, and what each waits for.

A name is an email_id, an activity.id, an address or a provider's message id. What isn't projected
yet is looked for at the end of the log, in the one partition where it must lie.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipeline.dispatch.correlation.parked import Parked, parked_as
from pipeline.operations.engagement import Count, circumstances, counts
from pipeline.operations.log_lookup import look_on_log
from pipeline.operations.pending import clock, waits_for
from pipeline.runtime.bootstrap import Runtime
from projections import postgres
from projections.postgres import Story, Told
from projections.steps import kind, occurred_at
from topics.acks import Acked, Deferred, Dropped, Failed
from topics.changes import Fact
from topics.conversions import ConversionResult, Outcome, Word
from topics.events import Correction, DeliveryEvent, Retraction
from topics.readings import owed, status
from topics.record import EmailId, Millis
from topics.requests import SendRequest

MOST: Final = 10
"""Emails told in full; the others are counted."""


class Line(msgspec.Struct, frozen=True):
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
    lines: list[Line]
    counts: list[Count]
    """Opens and clicks, raw and human."""
    conversions: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    waits_for: list[str]


class Found(msgspec.Struct, frozen=True):
    """The newest emails that go by the name; ``more`` of them are not told."""

    traces: list[Trace]
    more: bool
    parked: list[Parked] = []
    """Events that wait under this name for the ack that says whose they are."""


async def find(rt: Runtime, name: str, tenant: str | None = None) -> Found:
    """What is known of the emails that go by ``name``."""
    async with rt.pool.connection() as connection, connection.transaction():
        await postgres.one_moment(connection)
        ids = await postgres.emails_known_as(connection, name, tenant, MOST + 1)
        stories = [story for email_id in ids[:MOST] if (story := await postgres.story(connection, email_id))]
        parked = await parked_as(connection, name)
    if not stories:
        stories = await look_on_log(rt, name, tenant)
    now = rt.clock()
    return Found([tell(story, now) for story in stories], len(ids) > MOST, parked)


def tell(story: Story, now: Millis) -> Trace:
    """A story in words."""
    request = story.state.request
    facts = [told.fact for told in story.timeline]
    suspected = circumstances(facts)
    return Trace(
        email_id=story.state.email_id,
        tenant="" if request is None else request.tenant,
        brand="" if request is None else request.brand,
        recipient="" if request is None else request.recipient,
        identity="" if request is None else request.identity,
        status=status(story.state).value,
        version=story.version,
        projected=story.version > 0,
        lines=[_line(told, suspected) for told in in_causal_order(story.timeline)],
        counts=counts(facts),
        conversions=_conversions(story),
        jobs=story.jobs,
        waits_for=waits_for(story, now),
    )


def in_causal_order(timeline: list[Told]) -> list[Told]:
    """By when we recorded it, but no effect before its cause: clocks of several machines don't agree to the ms."""
    words: dict[Word, Millis] = {}
    for told in timeline:
        for word in _owes(told.fact):
            words[word] = min(told.fact.recorded_at, words.get(word, told.fact.recorded_at))

    def order(told: Told) -> tuple[int, Millis, int, Millis, list[str]]:
        fact, at = told.fact, told.fact.recorded_at
        if isinstance(fact, ConversionResult):
            return 1, max(at, words.get(fact.word, at)), 1, fact.attempt, told.places
        return int(not isinstance(fact, SendRequest)), at, 0, occurred_at(fact), told.places

    return sorted(timeline, key=order)


_OWES: Final = {"opened": "open", "clicked": "click", "bounced": "bounce", "rejected": "bounce", "complained": "spam"}


def _owes(fact: Fact) -> list[Word]:
    """The words that a fact may make true."""
    name = _OWES.get(kind(fact), kind(fact))
    if isinstance(fact, Acked):
        return [Word.DELIVERED] if fact.means_delivered else []
    return [Word(name)] if name in set(Word) and not getattr(fact, "machine", "") else []


def _line(told: Told, suspected: Mapping[str, str]) -> Line:
    fact = told.fact
    what = f"conversion {fact.word} {fact.outcome}" if isinstance(fact, ConversionResult) else kind(fact)
    details = _details(fact)
    if getattr(fact, "machine", ""):
        what += " by a machine"
    elif isinstance(fact, DeliveryEvent) and fact.event_id in suspected:
        details.append(f"not counted as a human's: {suspected[fact.event_id]}")
    return Line(occurred_at(fact), fact.recorded_at, what, "; ".join(filter(None, details)), told.places)


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
        own.append(f"again at {clock(fact.next_attempt_at)}")
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
    return f"corrected at {clock(told.at)}, it counted as {told.was or 'nothing'}"


def _words(fact: Any) -> str:
    """Codes and text as the server said them."""
    return " ".join(filter(None, (str(fact.code or ""), fact.enhanced, fact.text)))


def _conversions(story: Story) -> list[dict[str, Any]]:
    """Each word that is owed or was booked: what became of it, in the order in which they are told."""
    jobs = {job["name"]: job for job in story.jobs if job["queue"] == "emit"}
    attempts = [told.fact for told in story.timeline if isinstance(told.fact, ConversionResult)]
    known = owed(story.state)
    booked = [word for word in Word if word in jobs and word not in known]
    words = sorted([*known, *booked], key=lambda word: jobs[word]["seq"] if word in jobs else 99)
    return [_conversion(story, word, jobs.get(word), attempts) for word in words]


def _conversion(
    story: Story, word: Word, job: dict[str, Any] | None, attempts: list[ConversionResult]
) -> dict[str, Any]:
    settled = story.state.settled.get(word)
    return {
        "word": word.value,
        "outcome": settled.outcome.value if settled else "owed" if job else "not told",
        "attempts": sum(1 for fact in attempts if fact.word is word and fact.outcome is not Outcome.REPLAYED),
        "job": job,
    }
