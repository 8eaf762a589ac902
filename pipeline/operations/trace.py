"""Collect everything that happened to an email, in causal order, and what it waits for; `mailfold trace` calls it.

Emails are found by email_id, activity.id, address or the provider's message id. An email that is not projected yet is
looked up at the end of the log.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipeline.dispatch.correlation.parked import ParkedEvent, find_parked_events
from pipeline.operations.actions import recent_actions
from pipeline.operations.engagement import EngagementCount, engagement_counts, suspected_machines
from pipeline.operations.log_lookup import histories_on_log
from pipeline.operations.pending import format_time, pending_reasons
from pipeline.runtime.bootstrap import Runtime
from pipeline.suppressions.queries import SuppressionQueries
from projections import history_queries
from projections.history_queries import EmailHistory
from projections.row_changes import fact_kind, fact_occurred_at
from projections.timeline import TimelineFact, in_causal_order
from topics.acks import Acked, Deferred, Dropped, Failed
from topics.actions import OperatorAction
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import Correction, DeliveryEvent, Retraction
from topics.readings import email_status, owed_words
from topics.record import EmailId, Millis
from topics.requests import SendRequest

MAX_TRACED_EMAILS: Final = 10
"""Emails that are shown; of more, only the newest."""


class TraceLine(msgspec.Struct, frozen=True):
    """One thing that happened."""

    at: Millis
    recorded_at: Millis
    what: str
    details: str
    places: list[str]


class Trace(msgspec.Struct, frozen=True):
    """The history of one email, prepared for display."""

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
    """Opens and clicks, with and without machines."""
    conversions: list[dict[str, Any]]
    jobs: list[dict[str, Any]]
    waits_for: list[str]
    actions: list[OperatorAction] | None = []
    """The changes by operators to this email or its address, newest last; None where they could not be read."""


class TraceResult(msgspec.Struct, frozen=True):
    """The newest emails that a name matches."""

    traces: list[Trace]
    more: bool
    """Whether the name matches more emails."""
    parked: list[ParkedEvent] = []
    """Events with this message id that wait for the ack that names their email."""


async def find(rt: Runtime, name: str, tenant: str | None = None) -> TraceResult:
    """Return the traces of the emails that ``name`` matches, within ``tenant`` if it is given."""
    async with rt.pool.connection() as connection, connection.transaction():
        await history_queries.begin_snapshot(connection)
        ids = await history_queries.find_emails_by_any_id(connection, name, tenant, MAX_TRACED_EMAILS + 1)
        histories = [
            history
            for email_id in ids[:MAX_TRACED_EMAILS]
            if (history := await history_queries.find_email_history(connection, email_id))
        ]
        parked = await find_parked_events(connection, name)
    if not histories:
        histories = await histories_on_log(rt, name, tenant)
    now = rt.clock()
    traces = [trace_of(history, now) for history in histories]
    return TraceResult(await _with_actions(rt, traces), len(ids) > MAX_TRACED_EMAILS, parked)


async def _with_actions(rt: Runtime, traces: list[Trace]) -> list[Trace]:
    """Return the traces with what operators did to each email or to the address of its recipient."""
    queries = SuppressionQueries(rt)
    recent = await recent_actions(rt.settings) if traces else None
    if recent is None:
        return [msgspec.structs.replace(trace, actions=None) for trace in traces]
    return [
        msgspec.structs.replace(trace, actions=[each for each in recent if _touches(each, trace, queries)])
        for trace in traces
    ]


def _touches(action: OperatorAction, trace: Trace, queries: SuppressionQueries) -> bool:
    if action.email_id == trace.email_id:
        return True
    is_about_addresses = action.what.startswith("suppressions.") and action.tenant == trace.tenant
    return is_about_addresses and bool(trace.recipient) and action.target == queries.hash_of(trace.recipient).hex()


def trace_of(history: EmailHistory, now: Millis) -> Trace:
    """Return the trace of an email's history."""
    request = history.state.request
    facts = [entry.fact for entry in history.timeline]
    suspected = suspected_machines(facts)
    return Trace(
        email_id=history.state.email_id,
        tenant="" if request is None else request.tenant,
        brand="" if request is None else request.brand,
        recipient="" if request is None else request.recipient,
        identity="" if request is None else request.identity,
        status=email_status(history.state).value,
        version=history.version,
        projected=history.version > 0,
        lines=[_line(entry, suspected) for entry in in_causal_order(history.timeline)],
        counts=engagement_counts(facts),
        conversions=_conversions(history),
        jobs=history.jobs,
        waits_for=pending_reasons(history, now),
    )


def _line(entry: TimelineFact, suspected: Mapping[str, str]) -> TraceLine:
    fact = entry.fact
    what = f"conversion {fact.word} {fact.outcome}" if isinstance(fact, ConversionResult) else fact_kind(fact)
    details = _details(fact)
    if getattr(fact, "machine", ""):
        what += " by a machine"
    elif isinstance(fact, DeliveryEvent) and fact.event_id in suspected:
        details.append(f"not counted as a human's: {suspected[fact.event_id]}")
    return TraceLine(fact_occurred_at(fact), fact.recorded_at, what, "; ".join(filter(None, details)), entry.places)


def _details(fact: Fact) -> list[str]:
    if isinstance(fact, SendRequest):
        return _request_details(fact)
    if isinstance(fact, DeliveryEvent):
        return _event_details(fact)
    if isinstance(fact, Retraction):
        return [f"by {fact.provider}", _correction_text(fact.corrects), "it goes by another id"]
    if isinstance(fact, ConversionResult):
        answer = f"HTTP {fact.status}" if fact.status else "no answer"
        return [f"attempt {fact.attempt}", f"to {fact.destination}", answer, fact.detail]
    details = [f"attempt {fact.attempt}", f"by {fact.provider}" if fact.provider else "", _reply_text(fact)]
    if isinstance(fact, Acked):
        details.append(f"known there as {fact.provider_message_id}" if fact.provider_message_id else "")
    if isinstance(fact, Deferred):
        details.append(f"again at {format_time(fact.next_attempt_at)}")
    if isinstance(fact, Dropped | Failed):
        details.append(fact.reason)
    return details


def _request_details(fact: SendRequest) -> list[str]:
    content = fact.content
    position = f"content {content.partition}/{content.offset} ({content.chunks} chunks)" if content else "no content"
    return [f"tenant {fact.tenant}", f"brand {fact.brand}", f"dialect {fact.dialect}", f"to {fact.recipient}", position]


def _event_details(fact: DeliveryEvent) -> list[str]:
    return [
        f"by {fact.provider}",
        fact.machine,
        " ".join(filter(None, (fact.bounce_class or "", fact.bounce_type, fact.bounce_subtype))),
        _reply_text(fact),
        fact.url,
        fact.user_agent,
        "" if fact.corrects is None else _correction_text(fact.corrects),
    ]


def _correction_text(correction: Correction) -> str:
    return f"corrected at {format_time(correction.at)}, it counted as {correction.was or 'nothing'}"


def _reply_text(fact: Any) -> str:
    """Return the codes and the text of the server's reply."""
    return " ".join(filter(None, (str(fact.code or ""), fact.enhanced, fact.text)))


def _conversions(history: EmailHistory) -> list[dict[str, Any]]:
    """Return the outcome of each conversion that is owed or has a job, in the order of sending."""
    jobs = {job["name"]: job for job in history.jobs if job["queue"] == "emit"}
    attempts = [entry.fact for entry in history.timeline if isinstance(entry.fact, ConversionResult)]
    owed = owed_words(history.state)
    booked = [word for word in ConversionWord if word in jobs and word not in owed]
    words = sorted([*owed, *booked], key=lambda word: jobs[word]["seq"] if word in jobs else 99)
    return [_conversion(history, word, jobs.get(word), attempts) for word in words]


def _conversion(
    history: EmailHistory, word: ConversionWord, job: dict[str, Any] | None, attempts: list[ConversionResult]
) -> dict[str, Any]:
    settled = history.state.settled.get(word)
    return {
        "word": word.value,
        "outcome": settled.outcome.value if settled else "owed" if job else "not told",
        "attempts": sum(1 for fact in attempts if fact.word is word and fact.outcome is not ConversionOutcome.REPLAYED),
        "job": job,
    }
