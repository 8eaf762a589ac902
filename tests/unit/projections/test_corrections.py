"""Corrected events: in tables, listings, suppressions, owed conversions and traces."""

import msgspec

from pipeline.dialects.email_v1 import listed_email
from pipeline.operations.trace import trace_of
from projections import mail_updates
from projections.history_queries import EmailHistory
from projections.pending_conversions import new_conversions
from projections.row_changes import CurrentVersion, compute_row_changes, fact_event_id
from projections.timeline import TimelineFact
from tests.support.changes import T0, Log, again, event, facts_of, identified, request
from topics.changes import EmailChange
from topics.conversions import ConversionWord
from topics.events import Correction, DeliveryEvent, EventKind, Retraction
from topics.readings import ListedState, corrected_at, ever_owed_words, owed_words, updated_at
from topics.states import EmailState

BOUNCED = event(1, EventKind.BOUNCED, T0 + 20)
DEFERRED = again(BOUNCED, EventKind.DEFERRED, T0 + 500)


def hashed(address: str) -> bytes:
    return address.encode()


def last(log: Log) -> EmailState:
    return log.changes[-1].state


def test_a_listing_shows_what_still_counts() -> None:
    before, after = (last(Log().fold(request(1)).fold(*facts)) for facts in ([BOUNCED], [BOUNCED, DEFERRED]))
    wrong, right = listed_email("acme", before, request(1)), listed_email("acme", after, request(1))
    assert wrong is not None
    assert right is not None
    assert (wrong.state, wrong.bounce_details) == (ListedState.BOUNCED, "no such user")
    assert (right.state, right.bounce_type, right.bounce_details) == (ListedState.SENT, "", "")
    assert updated_at(after) == corrected_at(after) == T0 + 500
    assert mail_updates.mail_updated_at(after) >= T0 + 500


def test_a_bounce_whose_words_went_with_another_s_is_still_one() -> None:
    later = event(1, EventKind.BOUNCED, T0 + 30, nth=1)
    listed = listed_email("acme", last(Log().fold(request(1)).fold(BOUNCED, later, DEFERRED)), request(1))
    assert listed is not None
    assert (listed.state, listed.bounce_type, listed.bounce_details) == (ListedState.BOUNCED, "Undetermined", "")


def run(changes: list[EmailChange]) -> tuple[dict[str, CurrentVersion], list[ConversionWord]]:
    row_changes = compute_row_changes(changes, {}, hashed)
    return {str(key): row for key, row in row_changes.standing.items()}, [debt.word for debt in row_changes.debts]


def test_a_booked_word_stays_booked_and_one_that_never_counted_is_not() -> None:
    in_order = run(Log().fold(request(1)).fold(BOUNCED).fold(DEFERRED).changes)
    early = run(Log().fold(request(1)).fold(DEFERRED).fold(BOUNCED).changes)
    assert in_order[1] == [ConversionWord.BOUNCE]
    assert early[1] == []
    states = [rows[identified(1)].state for rows, _ in (in_order, early)]
    assert states[0] == states[1]
    assert owed_words(states[0]) == ()
    assert new_conversions(states[0], ()) == ()
    assert ever_owed_words(states[0]) == (ConversionWord.BOUNCE,)


def test_evidence_against_an_address_goes_with_its_bounce() -> None:
    row_changes = compute_row_changes(Log().fold(request(1)).fold(BOUNCED).fold(DEFERRED).changes, {}, hashed)
    assert list(row_changes.evidence.values()) == [None]


def test_the_timeline_holds_each_event_as_it_is_read_now() -> None:
    key = (identified(1), fact_event_id(BOUNCED))
    for facts in ([BOUNCED, DEFERRED, BOUNCED], [DEFERRED, BOUNCED]):
        log = Log().fold(request(1))
        for fact in facts:
            log.fold(fact)
        moment = compute_row_changes(log.changes, {}, hashed).timeline[key]
        assert moment.fact == DEFERRED
        assert len(moment.places) == len(facts)


def test_a_trace_says_what_an_event_counted_as_before() -> None:
    gone = event(1, EventKind.COMPLAINED, T0 + 40)
    retraction = Retraction(
        email_id=gone.email_id,
        event_id=gone.event_id,
        occurred_at=gone.occurred_at,
        recorded_at=gone.recorded_at,
        provider="sandbox",
        corrects=Correction(revision=1, was="complained", at=T0 + 500),
    )
    log = Log().fold(request(1), BOUNCED, gone).fold(DEFERRED, retraction)
    timeline = [TimelineFact(fact, ["facts/0/0"]) for fact in facts_of(log.changes[1:])]
    story = EmailHistory(state=last(log), version=1, since=T0, partition=0, timeline=timeline, jobs=[_booked()])
    trace = trace_of(story, T0 + 600)
    assert trace.status == "deferred"
    details = {line.what: line.details for line in trace.lines}
    assert "corrected at 2023-11-14 22:13:20.500, it counted as bounced" in details["deferred"]
    assert "it counted as complained; it goes by another id" in details["retraction"]
    # What was told can't be untold, and is still shown.
    assert [(one["word"], one["attempts"]) for one in trace.conversions] == [("bounce", 0)]


def _booked() -> dict[str, object]:
    return {"queue": "emit", "name": "bounce", "seq": 1, "state": "done", "attempts": 1, "last_error": ""}


def test_an_event_without_a_correction_is_as_small_as_ever() -> None:
    assert b"corrects" not in msgspec.json.encode(BOUNCED)
    assert isinstance(BOUNCED, DeliveryEvent)
