"""One run of changes and the rows as they stand in, the rows to write out. Pure.

Applied change by change, in log order, so that it makes no difference where one run ends and the
next begins: versions, places and debts come out the same from any split.

A version is valid from its partition's time: the latest `recorded_at` that the log up to there
holds. Workers' clocks may differ and step back, that time never does; so what is projected later
can't be valid before what was shown, and whoever reads the log again finds the same times.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from projections import mailing
from projections.debts import PendingConversion, ended_conversions, new_conversions
from projections.suppressing import EvidenceKey, EvidenceOrigin, HashAddress, evidence_of
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
"""Places kept of one fact; who repeats it more often than that has made the point."""

REQUEST_EVENT: Final = "send-request"
"""A request has no event id: an email has one request, however often its caller repeats it."""

_BIGINT: Final = 2**63 - 1


class CurrentVersion(msgspec.Struct, frozen=True):
    """An email's row in `history`, as much of it as the next change needs."""

    version: int
    valid_from: Millis
    state: EmailState


class ClosedVersion(msgspec.Struct, frozen=True):
    """A state and when it was in force."""

    version: int
    valid_from: Millis
    valid_to: Millis
    state: EmailState


class TimelineEntry(msgspec.Struct):
    """A fact on the timeline and every place it was seen at."""

    fact: Fact
    places: list[str]


class RowChanges(msgspec.Struct):
    """What a run of changes makes of the tables."""

    standing: dict[EmailId, CurrentVersion] = msgspec.field(default_factory=dict)
    closed: list[ClosedVersion] = msgspec.field(default_factory=list)
    timeline: dict[tuple[EmailId, str], TimelineEntry] = msgspec.field(default_factory=dict)
    debts: list[PendingConversion] = msgspec.field(default_factory=list)
    ended: dict[tuple[EmailId, ConversionWord], str] = msgspec.field(default_factory=dict)
    evidence: dict[EvidenceKey, EvidenceOrigin | None] = msgspec.field(default_factory=dict)
    """None: no longer told."""
    requests: dict[EmailId, SendRequest] = msgspec.field(default_factory=dict)
    mails: dict[EmailId, mailing.MailUpdate] = msgspec.field(default_factory=dict)
    through: Millis = 0
    """The partition's time at the run's end."""
    changed: Millis = 0
    """Its time at the run's last change; 0 where there was none."""


def compute_row_changes(
    run: Sequence[EmailChange | Tick],
    rows: Mapping[EmailId, CurrentVersion],
    hash_address: HashAddress,
    through: Millis = 0,
    old_hash_address: HashAddress | None = None,
) -> RowChanges:
    """Apply ``run`` in order to ``rows``; ``through`` is the partition's time before it.

    Evidence is written under ``hash_address`` and also taken back from under ``old_hash_address``.
    """
    made = RowChanges(through=through)
    for record in run:
        made.through = max(made.through, storable_bigint(record.recorded_at))
        if isinstance(record, EmailChange):
            made.changed = made.through
            before = made.standing.get(record.email_id) or rows.get(record.email_id)
            _apply(made, record, before, (hash_address, old_hash_address or hash_address))
    return made


def _apply(
    made: RowChanges, change: EmailChange, before: CurrentVersion | None, hashes: tuple[HashAddress, HashAddress]
) -> None:
    for applied in change.facts:
        _remember(made, change.email_id, applied)
    after = change.state if before is None else merge(before.state, change.state)
    mailing.add_change(made.mails, change, None if before is None else before.state, after)
    if before is not None and after == before.state:
        return
    _stand(made, change, before, after)
    _owe(made, None if before is None else before.state, after)
    _tell(made, None if before is None else before.state, after, hashes)


def _stand(made: RowChanges, change: EmailChange, before: CurrentVersion | None, after: EmailState) -> None:
    """One version more."""
    at = made.through
    if before is None:
        made.standing[change.email_id] = CurrentVersion(1, at, after)
    else:
        made.closed.append(ClosedVersion(before.version, before.valid_from, at, before.state))
        made.standing[change.email_id] = CurrentVersion(before.version + 1, at, after)
    if after.request is not None and (before is None or before.state.request != after.request):
        made.requests[change.email_id] = after.request


def _owe(made: RowChanges, before: EmailState | None, after: EmailState) -> None:
    """Debts new with this change, and settlements new with it.

    Only new ones: a dead conversion that somebody replays is pending again while its old
    settlement still stands in the state.
    """
    debts = new_conversions(after, () if before is None else owed_words(before))
    if after.corrected:
        # A word that was read wrong and is true again: once in a run, as it is once in the table, or the numbers of
        # what follows would depend on where one run ends.
        debts = tuple([debt for debt in debts if debt not in made.debts])
    booked = {debt.word for debt in debts}
    known = {} if before is None else ended_conversions(before)
    made.debts += debts
    made.ended |= {
        (after.email_id, word): end
        for word, end in ended_conversions(after).items()
        if word in booked or known.get(word) != end
    }


def _tell(
    made: RowChanges, before: EmailState | None, after: EmailState, hashes: tuple[HashAddress, HashAddress]
) -> None:
    """Note what the email tells of its address that it did not tell before, and what it takes back."""
    hash_address, old_hash_address = hashes
    told, tells = evidence_of(before, hash_address), evidence_of(after, hash_address)
    if told == tells:
        return
    # An earlier version may have written what it told under its own hash.
    made.evidence |= dict.fromkeys(evidence_of(before, old_hash_address).keys() - told.keys())
    made.evidence |= dict.fromkeys(told.keys() - tells.keys())
    made.evidence |= {key: sign for key, sign in tells.items() if told.get(key) != sign}


def _remember(made: RowChanges, email_id: EmailId, applied: AppliedFact) -> None:
    key, place = (email_id, fact_event_id(applied.fact)), str(applied.place)
    moment = made.timeline.get(key)
    if moment is None:
        made.timeline[key] = TimelineEntry(applied.fact, [place])
        return
    if fact_revision(applied.fact) > fact_revision(moment.fact):
        moment.fact = applied.fact
    if place not in moment.places and len(moment.places) < MAX_PLACES:
        moment.places.append(place)


def fact_event_id(fact: Fact) -> str:
    """What a fact is known by: two with the same id are one fact, seen twice."""
    return REQUEST_EVENT if isinstance(fact, SendRequest) else storable_text(fact.event_id)


def fact_revision(fact: Fact) -> int:
    """Which reading of an event this is: the timeline holds the highest."""
    correction = fact.corrects if isinstance(fact, DeliveryEvent | Retraction) else None
    return 0 if correction is None else storable_bigint(correction.revision)


def fact_kind(fact: Fact) -> str:
    """What happened, in a word: `accepted`, an ack's own tag, an event's kind, `retraction`, `conversion`."""
    if isinstance(fact, SendRequest):
        return "accepted"
    if isinstance(fact, ConversionResult):
        return "conversion"
    if isinstance(fact, DeliveryEvent):
        return fact.kind.value
    return str(type(fact).__struct_config__.tag).partition("/")[0]


def fact_occurred_at(fact: Fact) -> Millis:
    """When it happened, by its source's clock, as far as a column can hold it; the fact itself is verbatim."""
    return storable_bigint(fact.recorded_at if isinstance(fact, SendRequest) else fact.occurred_at)


def storable_bigint(value: int) -> int:
    """What a bigint column can hold."""
    return max(-_BIGINT, min(value, _BIGINT))
