"""Computes the row changes of a batch of `email-changes` from the current rows. Pure; the sink calls it.

Changes are applied one by one in log order, so that versions, places and conversions do not depend on where one batch
ends and the next begins.

A version's `valid_from` is its partition's time: the latest `recorded_at` of any record up to this one. Workers' clocks
may differ and step back, this time never does. So a later change can't become valid before a time that was already
listed, and reading the log again gives the same times.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from projections import mail_updates
from projections.pending_conversions import PendingConversion, ended_conversions, new_conversions
from projections.suppression_rules import EvidenceKey, EvidenceOrigin, HashAddress, evidence_of
from projections.text import storable_text
from topics.changes import AppliedFact, EmailChange, Fact, Tick
from topics.conversions import ConversionResult, ConversionWord
from topics.events import DeliveryEvent, Retraction
from topics.join import merge
from topics.readings import owed_words
from topics.record import EmailId, Millis
from topics.requests import SendRequest
from topics.states import EmailState

MAX_PLACES: Final = 100
"""Places kept of one fact; further repeats are not recorded."""

REQUEST_EVENT: Final = "send-request"
"""The event id of a request, which has none itself: an email has one request, however often its caller repeats it."""

_BIGINT: Final = 2**63 - 1


class CurrentVersion(msgspec.Struct, frozen=True):
    """The columns of an email's row in `history` that the next change needs."""

    version: int
    valid_from: Millis
    state: EmailState


class ClosedVersion(msgspec.Struct, frozen=True):
    """A state and the half-open interval [valid_from, valid_to) in which it was the current one."""

    version: int
    valid_from: Millis
    valid_to: Millis
    state: EmailState


class FirstRequest(msgspec.Struct, frozen=True):
    """An email's request and the time of the first version that has it."""

    request: SendRequest
    valid_from: Millis


class FactReading(msgspec.Struct, frozen=True):
    """A revision of an event and the partition's time when it was read."""

    fact: Fact
    known_from: Millis


class TimelineEntry(msgspec.Struct):
    """A fact on the timeline with its places on the log, and the partition's time at each of them."""

    fact: Fact
    places: list[str]
    known_from: Millis
    places_known_from: list[Millis]
    reading_known_from: Millis
    superseded: list[FactReading] = msgspec.field(default_factory=list)
    """Readings that the same batch corrected."""


class RowChanges(msgspec.Struct):
    """The row changes that a batch causes, by table."""

    standing: dict[EmailId, CurrentVersion] = msgspec.field(default_factory=dict)
    closed: list[ClosedVersion] = msgspec.field(default_factory=list)
    timeline: dict[tuple[EmailId, str], TimelineEntry] = msgspec.field(default_factory=dict)
    debts: list[PendingConversion] = msgspec.field(default_factory=list)
    ended: dict[tuple[EmailId, ConversionWord], str] = msgspec.field(default_factory=dict)
    evidence: dict[EvidenceKey, EvidenceOrigin | None] = msgspec.field(default_factory=dict)
    """Evidence by key; None deletes it."""
    requests: dict[EmailId, SendRequest] = msgspec.field(default_factory=dict)
    first_requests: dict[EmailId, FirstRequest] = msgspec.field(default_factory=dict)
    mails: dict[EmailId, mail_updates.MailUpdate] = msgspec.field(default_factory=dict)
    removed: set[EmailId] = msgspec.field(default_factory=set)
    """Emails of deleted tenants, of which no row may stay."""
    through: Millis = 0
    """The partition's time at the batch's end."""
    changed: Millis = 0
    """The partition's time at the batch's last change; 0 if it has none."""


def compute_row_changes(
    batch: Sequence[EmailChange | Tick],
    versions: Mapping[EmailId, CurrentVersion],
    hash_address: HashAddress,
    through: Millis = 0,
    old_hash_address: HashAddress | None = None,
    *,
    deleted_tenants: Collection[str] = (),
) -> RowChanges:
    """Return the row changes of a batch that is applied in order to the current versions.

    ``through`` is the partition's time before the batch. Evidence is written under ``hash_address``; withdrawn
    evidence is also deleted under ``old_hash_address``. Changes of ``deleted_tenants`` count for the partition's time
    alone.
    """
    changes = RowChanges(through=through, removed=_emails_of(batch, deleted_tenants))
    for record in batch:
        changes.through = max(changes.through, storable_bigint(record.recorded_at))
        if isinstance(record, EmailChange):
            changes.changed = changes.through
            if record.email_id in changes.removed:
                continue
            before = changes.standing.get(record.email_id) or versions.get(record.email_id)
            _apply(changes, record, before, (hash_address, old_hash_address or hash_address))
    return changes


def join_row_changes(parts: Sequence[RowChanges]) -> RowChanges:
    """Return the row changes of batches that share no email as one, without the partitions' times."""
    if len(parts) == 1:
        return parts[0]
    joined = RowChanges()
    for part in parts:
        joined.standing |= part.standing
        joined.closed += part.closed
        joined.timeline |= part.timeline
        joined.debts += part.debts
        joined.ended |= part.ended
        joined.evidence |= part.evidence
        joined.requests |= part.requests
        joined.first_requests |= part.first_requests
        joined.mails |= part.mails
        joined.removed |= part.removed
    return joined


def tenant_of(change: EmailChange) -> str | None:
    """Return the tenant of a change; None while facts came before their request."""
    return None if change.state.request is None else change.state.request.tenant


def _emails_of(batch: Sequence[EmailChange | Tick], tenants: Collection[str]) -> set[EmailId]:
    """Return the emails of these tenants, whose facts may have come before the request that names the tenant."""
    if not tenants:
        return set()
    return {change.email_id for change in batch if isinstance(change, EmailChange) and tenant_of(change) in tenants}


def _apply(
    changes: RowChanges, change: EmailChange, before: CurrentVersion | None, hashes: tuple[HashAddress, HashAddress]
) -> None:
    for applied in change.facts:
        _add_to_timeline(changes, change.email_id, applied)
    after = change.state if before is None else merge(before.state, change.state)
    mail_updates.add_change(changes.mails, change, None if before is None else before.state, after)
    if before is not None and after == before.state:
        return
    _add_version(changes, change, before, after)
    _add_conversions(changes, None if before is None else before.state, after)
    _add_evidence(changes, None if before is None else before.state, after, hashes)


def _add_version(changes: RowChanges, change: EmailChange, before: CurrentVersion | None, after: EmailState) -> None:
    valid_from = changes.through
    if before is None:
        changes.standing[change.email_id] = CurrentVersion(1, valid_from, after)
    else:
        changes.closed.append(ClosedVersion(before.version, before.valid_from, valid_from, before.state))
        changes.standing[change.email_id] = CurrentVersion(before.version + 1, valid_from, after)
    if after.request is not None and (before is None or before.state.request != after.request):
        changes.requests[change.email_id] = after.request
        if before is None or before.state.request is None:
            changes.first_requests[change.email_id] = FirstRequest(after.request, valid_from)


def _add_conversions(changes: RowChanges, before: EmailState | None, after: EmailState) -> None:
    """Add the conversions that this change makes pending, and those that it ends.

    Only new ends count: a dead conversion that was replayed is pending again while its old settlement is still in
    the state.
    """
    conversions = new_conversions(after, () if before is None else owed_words(before))
    if after.corrected:
        # A corrected word may become owed twice in one batch. It is added once, as the table holds it once: the
        # numbers of later jobs must not depend on where a batch ends.
        conversions = tuple([conversion for conversion in conversions if conversion not in changes.debts])
    new_words = {conversion.word for conversion in conversions}
    ended_before = {} if before is None else ended_conversions(before)
    changes.debts += conversions
    changes.ended |= {
        (after.email_id, word): end
        for word, end in ended_conversions(after).items()
        if word in new_words or ended_before.get(word) != end
    }


def _add_evidence(
    changes: RowChanges, before: EmailState | None, after: EmailState, hashes: tuple[HashAddress, HashAddress]
) -> None:
    """Add the evidence about the address that this change adds, and withdraw what it removes."""
    hash_address, old_hash_address = hashes
    evidence_before, evidence_after = evidence_of(before, hash_address), evidence_of(after, hash_address)
    if evidence_before == evidence_after:
        return
    # An earlier version may have written the evidence under its own hash.
    changes.evidence |= dict.fromkeys(evidence_of(before, old_hash_address).keys() - evidence_before.keys())
    changes.evidence |= dict.fromkeys(evidence_before.keys() - evidence_after.keys())
    changes.evidence |= {key: origin for key, origin in evidence_after.items() if evidence_before.get(key) != origin}


def _add_to_timeline(changes: RowChanges, email_id: EmailId, applied: AppliedFact) -> None:
    key, place = (email_id, fact_event_id(applied.fact)), str(applied.place)
    entry, now = changes.timeline.get(key), changes.through
    if entry is None:
        changes.timeline[key] = TimelineEntry(applied.fact, [place], now, [now], now)
        return
    if fact_revision(applied.fact) > fact_revision(entry.fact):
        entry.superseded.append(FactReading(entry.fact, entry.reading_known_from))
        entry.fact, entry.reading_known_from = applied.fact, now
    if place not in entry.places and len(entry.places) < MAX_PLACES:
        entry.places.append(place)
        entry.places_known_from.append(now)


def fact_event_id(fact: Fact) -> str:
    """Return a fact's event id: two records with the same id are repeats of one fact."""
    return REQUEST_EVENT if isinstance(fact, SendRequest) else storable_text(fact.event_id)


def fact_revision(fact: Fact) -> int:
    """Return the revision of an event's reading; the timeline holds the highest one."""
    correction = fact.corrects if isinstance(fact, DeliveryEvent | Retraction) else None
    return 0 if correction is None else storable_bigint(correction.revision)


def fact_kind(fact: Fact) -> str:
    """Return the fact's kind: `accepted`, an ack's tag, an event's kind, `retraction` or `conversion`."""
    if isinstance(fact, SendRequest):
        return "accepted"
    if isinstance(fact, ConversionResult):
        return "conversion"
    if isinstance(fact, DeliveryEvent):
        return fact.kind.value
    return str(type(fact).__struct_config__.tag).partition("/")[0]


def fact_occurred_at(fact: Fact) -> Millis:
    """Return the time by the source's clock, limited to what a column can hold; the fact itself keeps the original."""
    return storable_bigint(fact.recorded_at if isinstance(fact, SendRequest) else fact.occurred_at)


def storable_bigint(value: int) -> int:
    """Return the value limited to the range of a bigint column."""
    return max(-_BIGINT, min(value, _BIGINT))
