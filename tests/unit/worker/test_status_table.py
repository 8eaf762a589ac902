"""The design's table, a row per line: which fact makes which status, which conversion, which listed State."""

from typing import Any

import pytest

from pipeline.worker.fold import evolve, lift
from tests.support.facts import EMAIL_ID, event, folded, request
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionResult, Outcome, Word
from topics.events import BounceClass, EventKind
from topics.readings import ListedState, Status, listed_state, owed, status, unsettled, updated_at
from topics.requests import SendRequest
from topics.verdict import bounce_class

REQUEST = request(1)


def ack(kind: Any, **fields: Any) -> Any:
    return kind(email_id=EMAIL_ID, event_id="a", occurred_at=2, recorded_at=2, provider="p", **fields)


def result(word: Word, outcome: Outcome) -> ConversionResult:
    return ConversionResult(
        email_id=EMAIL_ID,
        event_id=f"{word}:{outcome}",
        word=word,
        outcome=outcome,
        occurred_at=9,
        recorded_at=9,
        destination="d",
        attempt=1,
    )


SENT, ACCEPTED = ack(Acked), REQUEST
SENT_MEANT = ack(Acked, means_delivered=True)
TRIED, REJECTED = ack(Deferred, next_attempt_at=3), ack(Rejected, code=550, enhanced="5.1.1", text="no such user")
DROPPED, FAILED = ack(Dropped, reason="suppressed"), ack(Failed, reason="gave up")
KINDS = {kind: event(kind) for kind in EventKind}
OPENED_BY_MACHINE = event(EventKind.OPENED, machine="apple")
CLICKED_BY_MACHINE = event(EventKind.CLICKED, machine="gateway")

TABLE: list[tuple[str, Fact, Status, Word | None, ListedState | None]] = [
    ("send request", ACCEPTED, Status.ACCEPTED, None, None),
    ("relay took custody", SENT, Status.SENT, None, ListedState.SENT),
    ("provider queued", KINDS[EventKind.QUEUED], Status.SENT, None, ListedState.SENT),
    ("provider sent", KINDS[EventKind.SENT], Status.SENT, None, ListedState.SENT),
    ("our deferral", TRIED, Status.DEFERRED, None, None),
    ("provider's deferral", KINDS[EventKind.DEFERRED], Status.DEFERRED, None, ListedState.SENT),
    ("delivered", KINDS[EventKind.DELIVERED], Status.DELIVERED, Word.DELIVERED, ListedState.DELIVERED),
    ("a 250 that means it", SENT_MEANT, Status.DELIVERED, Word.DELIVERED, ListedState.DELIVERED),
    ("opened by a human", KINDS[EventKind.OPENED], Status.OPENED, Word.OPEN, ListedState.DELIVERED),
    ("clicked by a human", KINDS[EventKind.CLICKED], Status.CLICKED, Word.CLICK, ListedState.DELIVERED),
    ("opened by a machine", OPENED_BY_MACHINE, Status.ACCEPTED, None, None),
    ("clicked by a machine", CLICKED_BY_MACHINE, Status.ACCEPTED, None, None),
    ("rejected at once", REJECTED, Status.BOUNCED, Word.BOUNCE, ListedState.BOUNCED),
    ("bounced later", KINDS[EventKind.BOUNCED], Status.BOUNCED, Word.BOUNCE, ListedState.BOUNCED),
    ("complaint", KINDS[EventKind.COMPLAINED], Status.COMPLAINED, Word.SPAM, ListedState.COMPLAINT),
    ("suppressed here", DROPPED, Status.DROPPED, Word.DROPPED, ListedState.BOUNCED),
    ("provider's policy", KINDS[EventKind.DROPPED], Status.DROPPED, Word.DROPPED, ListedState.BOUNCED),
    ("gave up", FAILED, Status.FAILED, Word.FAILED, ListedState.BOUNCED),
    ("provider failed", KINDS[EventKind.FAILED], Status.FAILED, Word.FAILED, ListedState.BOUNCED),
    ("unsubscribe", KINDS[EventKind.UNSUBSCRIBED], Status.ACCEPTED, None, None),
    ("out of office", KINDS[EventKind.REPLIED], Status.ACCEPTED, None, None),
    ("unknown", KINDS[EventKind.UNKNOWN], Status.ACCEPTED, None, None),
]


@pytest.mark.parametrize(
    ("fact", "word", "conversion", "listed"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_a_fact_means(fact: Fact, word: Status, conversion: Word | None, listed: ListedState | None) -> None:
    state = folded([REQUEST, fact], evolve)
    assert status(state) == word
    assert owed(state) == ((conversion,) if conversion else ())
    assert listed_state(state) == listed


def test_every_kind_of_event_has_a_row() -> None:
    assert {fact.kind for _, fact, *_ in TABLE if hasattr(fact, "kind") and not isinstance(fact, SendRequest)} == set(
        EventKind
    )


STRONGER_FIRST = [
    (KINDS[EventKind.COMPLAINED], Status.COMPLAINED),
    (KINDS[EventKind.BOUNCED], Status.BOUNCED),
    (FAILED, Status.FAILED),
    (DROPPED, Status.DROPPED),
    (KINDS[EventKind.CLICKED], Status.CLICKED),
    (KINDS[EventKind.OPENED], Status.OPENED),
    (KINDS[EventKind.DELIVERED], Status.DELIVERED),
    (KINDS[EventKind.DEFERRED], Status.DEFERRED),
    (SENT, Status.SENT),
    (TRIED, Status.DEFERRED),
    (ACCEPTED, Status.ACCEPTED),
]
PAIRS = [(one, weaker) for index, one in enumerate(STRONGER_FIRST) for weaker in STRONGER_FIRST[index + 1 :]]


@pytest.mark.parametrize(("stronger", "weaker"), PAIRS, ids=[f"{a[1]} over {b[1]}" for a, b in PAIRS])
def test_of_two_facts_the_stronger_gives_the_status_whichever_came_first(
    stronger: tuple[Fact, Status], weaker: tuple[Fact, Status]
) -> None:
    assert status(folded([stronger[0], weaker[0]], evolve)) == stronger[1]
    assert status(folded([weaker[0], stronger[0]], evolve)) == stronger[1]


def test_nothing_heard_is_nothing_claimed() -> None:
    assert status(lift(KINDS[EventKind.UNKNOWN])) == Status.UNKNOWN
    assert lift(KINDS[EventKind.OPENED]).delivered is None


def test_nothing_is_owed_before_the_request_is_known() -> None:
    assert owed(lift(KINDS[EventKind.DELIVERED])) == ()
    assert owed(folded([KINDS[EventKind.DELIVERED], REQUEST], evolve)) == (Word.DELIVERED,)


@pytest.mark.parametrize(
    ("outcome", "still_owed"),
    [
        (Outcome.RETRYING, True),
        (Outcome.REPLAYED, True),
        (Outcome.DELIVERED, False),
        (Outcome.REFUSED, False),
        (Outcome.GIVEN_UP, False),
    ],
)
def test_an_outcome_settles_a_debt_or_leaves_it(outcome: Outcome, still_owed: bool) -> None:
    state = folded([REQUEST, KINDS[EventKind.OPENED], result(Word.OPEN, outcome)], evolve)
    assert owed(state) == (Word.OPEN,)
    assert unsettled(state) == ((Word.OPEN,) if still_owed else ())


def test_a_debt_that_was_given_up_and_then_delivered_is_delivered() -> None:
    told = [result(Word.OPEN, Outcome.DELIVERED), result(Word.OPEN, Outcome.GIVEN_UP)]
    assert folded(told, evolve).settled[Word.OPEN].outcome == Outcome.DELIVERED
    assert folded(told[::-1], evolve).settled[Word.OPEN].outcome == Outcome.DELIVERED


def test_repeats_of_a_known_kind_do_not_move_last_updated() -> None:
    told: list[Fact] = [REQUEST, event(EventKind.OPENED, "one", at=5)]
    assert updated_at(folded(told, evolve)) == 5
    assert updated_at(folded([*told, event(EventKind.OPENED, "two", at=7)], evolve)) == 5


def test_a_bounce_keeps_the_servers_own_words() -> None:
    bounce = lift(REJECTED).bounce
    assert bounce is not None
    assert (bounce.code, bounce.enhanced, bounce.text) == (550, "5.1.1", "no such user")
    assert bounce.bounce_class is BounceClass.HARD


def test_a_hard_bounce_is_told_even_after_a_soft_one() -> None:
    soft = event(EventKind.BOUNCED, "soft", at=3, bounce_class=BounceClass.SOFT)
    hard = event(EventKind.BOUNCED, "hard", at=8, bounce_class=BounceClass.HARD)
    for told in ([soft, hard], [hard, soft]):
        assert folded(told, evolve).bounce.event_id == "hard"


@pytest.mark.parametrize(
    ("code", "enhanced", "expected"),
    [
        (550, "5.1.1", BounceClass.HARD),
        (550, "5.1.2", BounceClass.HARD),
        (556, "5.1.10", BounceClass.HARD),
        (550, "5.2.1", BounceClass.HARD),
        (550, "5.1.8", BounceClass.SOFT),
        (552, "5.2.2", BounceClass.SOFT),
        (550, "5.7.1", BounceClass.SOFT),
        (554, "5.7.26", BounceClass.SOFT),
        (552, "5.3.4", BounceClass.SOFT),
        (550, "", BounceClass.HARD),
        (551, "", BounceClass.HARD),
        (553, "", BounceClass.HARD),
        (521, "", BounceClass.HARD),
        (552, "", BounceClass.SOFT),
        (554, "", BounceClass.SOFT),
        (550, "5.0.0", BounceClass.HARD),
        (0, "", BounceClass.SOFT),
    ],
)
def test_a_rejection_is_hard_where_it_blames_the_address(code: int, enhanced: str, expected: BounceClass) -> None:
    assert bounce_class(code, enhanced) is expected
