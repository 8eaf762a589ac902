"""The design's table, a row per line: which fact makes which status, which conversion, which listed State."""

from typing import Any

import pytest

from pipeline.worker.fold import evolve, state_of_fact
from tests.support.facts import EMAIL_ID, event, folded, request
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import BounceClass, EventKind
from topics.readings import (
    EmailStatus,
    ListedState,
    email_status,
    listed_state,
    owed_words,
    unsettled_words,
    updated_at,
)
from topics.refusals import bounce_class
from topics.requests import SendRequest

REQUEST = request(1)


def ack(kind: Any, **fields: Any) -> Any:
    return kind(email_id=EMAIL_ID, event_id="a", occurred_at=2, recorded_at=2, provider="p", **fields)


def result(word: ConversionWord, outcome: ConversionOutcome) -> ConversionResult:
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

TABLE: list[tuple[str, Fact, EmailStatus, ConversionWord | None, ListedState | None]] = [
    ("send request", ACCEPTED, EmailStatus.ACCEPTED, None, None),
    ("relay took custody", SENT, EmailStatus.SENT, None, ListedState.SENT),
    ("provider queued", KINDS[EventKind.QUEUED], EmailStatus.SENT, None, ListedState.SENT),
    ("provider sent", KINDS[EventKind.SENT], EmailStatus.SENT, None, ListedState.SENT),
    ("our deferral", TRIED, EmailStatus.DEFERRED, None, None),
    ("provider's deferral", KINDS[EventKind.DEFERRED], EmailStatus.DEFERRED, None, ListedState.SENT),
    ("delivered", KINDS[EventKind.DELIVERED], EmailStatus.DELIVERED, ConversionWord.DELIVERED, ListedState.DELIVERED),
    ("a 250 that means it", SENT_MEANT, EmailStatus.DELIVERED, ConversionWord.DELIVERED, ListedState.DELIVERED),
    ("opened by a human", KINDS[EventKind.OPENED], EmailStatus.OPENED, ConversionWord.OPEN, ListedState.DELIVERED),
    ("clicked by a human", KINDS[EventKind.CLICKED], EmailStatus.CLICKED, ConversionWord.CLICK, ListedState.DELIVERED),
    ("opened by a machine", OPENED_BY_MACHINE, EmailStatus.ACCEPTED, None, None),
    ("clicked by a machine", CLICKED_BY_MACHINE, EmailStatus.ACCEPTED, None, None),
    ("rejected at once", REJECTED, EmailStatus.BOUNCED, ConversionWord.BOUNCE, ListedState.BOUNCED),
    ("bounced later", KINDS[EventKind.BOUNCED], EmailStatus.BOUNCED, ConversionWord.BOUNCE, ListedState.BOUNCED),
    ("complaint", KINDS[EventKind.COMPLAINED], EmailStatus.COMPLAINED, ConversionWord.SPAM, ListedState.COMPLAINT),
    ("suppressed here", DROPPED, EmailStatus.DROPPED, ConversionWord.DROPPED, ListedState.BOUNCED),
    ("provider's policy", KINDS[EventKind.DROPPED], EmailStatus.DROPPED, ConversionWord.DROPPED, ListedState.BOUNCED),
    ("gave up", FAILED, EmailStatus.FAILED, ConversionWord.FAILED, ListedState.BOUNCED),
    ("provider failed", KINDS[EventKind.FAILED], EmailStatus.FAILED, ConversionWord.FAILED, ListedState.BOUNCED),
    ("unsubscribe", KINDS[EventKind.UNSUBSCRIBED], EmailStatus.ACCEPTED, None, None),
    ("out of office", KINDS[EventKind.REPLIED], EmailStatus.ACCEPTED, None, None),
    ("unknown", KINDS[EventKind.UNKNOWN], EmailStatus.ACCEPTED, None, None),
]


@pytest.mark.parametrize(
    ("fact", "word", "conversion", "listed"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_a_fact_means(
    fact: Fact, word: EmailStatus, conversion: ConversionWord | None, listed: ListedState | None
) -> None:
    state = folded([REQUEST, fact], evolve)
    assert email_status(state) == word
    assert owed_words(state) == ((conversion,) if conversion else ())
    assert listed_state(state) == listed


def test_every_kind_of_event_has_a_row() -> None:
    assert {fact.kind for _, fact, *_ in TABLE if hasattr(fact, "kind") and not isinstance(fact, SendRequest)} == set(
        EventKind
    )


STRONGER_FIRST = [
    (KINDS[EventKind.COMPLAINED], EmailStatus.COMPLAINED),
    (KINDS[EventKind.BOUNCED], EmailStatus.BOUNCED),
    (FAILED, EmailStatus.FAILED),
    (DROPPED, EmailStatus.DROPPED),
    (KINDS[EventKind.CLICKED], EmailStatus.CLICKED),
    (KINDS[EventKind.OPENED], EmailStatus.OPENED),
    (KINDS[EventKind.DELIVERED], EmailStatus.DELIVERED),
    (KINDS[EventKind.DEFERRED], EmailStatus.DEFERRED),
    (SENT, EmailStatus.SENT),
    (TRIED, EmailStatus.DEFERRED),
    (ACCEPTED, EmailStatus.ACCEPTED),
]
PAIRS = [(one, weaker) for index, one in enumerate(STRONGER_FIRST) for weaker in STRONGER_FIRST[index + 1 :]]


@pytest.mark.parametrize(("stronger", "weaker"), PAIRS, ids=[f"{a[1]} over {b[1]}" for a, b in PAIRS])
def test_of_two_facts_the_stronger_gives_the_status_whichever_came_first(
    stronger: tuple[Fact, EmailStatus], weaker: tuple[Fact, EmailStatus]
) -> None:
    assert email_status(folded([stronger[0], weaker[0]], evolve)) == stronger[1]
    assert email_status(folded([weaker[0], stronger[0]], evolve)) == stronger[1]


def test_nothing_heard_is_nothing_claimed() -> None:
    assert email_status(state_of_fact(KINDS[EventKind.UNKNOWN])) == EmailStatus.UNKNOWN
    assert state_of_fact(KINDS[EventKind.OPENED]).delivered is None


def test_nothing_is_owed_before_the_request_is_known() -> None:
    assert owed_words(state_of_fact(KINDS[EventKind.DELIVERED])) == ()
    assert owed_words(folded([KINDS[EventKind.DELIVERED], REQUEST], evolve)) == (ConversionWord.DELIVERED,)


@pytest.mark.parametrize(
    ("outcome", "still_owed"),
    [
        (ConversionOutcome.RETRYING, True),
        (ConversionOutcome.REPLAYED, True),
        (ConversionOutcome.DELIVERED, False),
        (ConversionOutcome.REFUSED, False),
        (ConversionOutcome.GIVEN_UP, False),
    ],
)
def test_an_outcome_settles_a_debt_or_leaves_it(outcome: ConversionOutcome, still_owed: bool) -> None:
    state = folded([REQUEST, KINDS[EventKind.OPENED], result(ConversionWord.OPEN, outcome)], evolve)
    assert owed_words(state) == (ConversionWord.OPEN,)
    assert unsettled_words(state) == ((ConversionWord.OPEN,) if still_owed else ())


def test_a_debt_that_was_given_up_and_then_delivered_is_delivered() -> None:
    facts = [
        result(ConversionWord.OPEN, ConversionOutcome.DELIVERED),
        result(ConversionWord.OPEN, ConversionOutcome.GIVEN_UP),
    ]
    assert folded(facts, evolve).settled[ConversionWord.OPEN].outcome == ConversionOutcome.DELIVERED
    assert folded(facts[::-1], evolve).settled[ConversionWord.OPEN].outcome == ConversionOutcome.DELIVERED


def test_repeats_of_a_known_kind_do_not_move_last_updated() -> None:
    facts: list[Fact] = [REQUEST, event(EventKind.OPENED, "one", at=5)]
    assert updated_at(folded(facts, evolve)) == 5
    assert updated_at(folded([*facts, event(EventKind.OPENED, "two", at=7)], evolve)) == 5


def test_a_bounce_keeps_the_servers_own_words() -> None:
    bounce = state_of_fact(REJECTED).bounce
    assert bounce is not None
    assert (bounce.code, bounce.enhanced, bounce.text) == (550, "5.1.1", "no such user")
    assert bounce.bounce_class is BounceClass.HARD


def test_a_hard_bounce_is_told_even_after_a_soft_one() -> None:
    soft = event(EventKind.BOUNCED, "soft", at=3, bounce_class=BounceClass.SOFT)
    hard = event(EventKind.BOUNCED, "hard", at=8, bounce_class=BounceClass.HARD)
    for facts in ([soft, hard], [hard, soft]):
        assert folded(facts, evolve).bounce.event_id == "hard"


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
