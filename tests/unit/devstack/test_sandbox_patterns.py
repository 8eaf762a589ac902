"""Address patterns of the sandbox, and the events and visits that are planned for them."""

from pathlib import Path

import pytest

from pipeline.devstack.sandbox.address_patterns import (
    PATTERNS,
    AddressPattern,
    RecipientBehaviour,
    SmtpRefusal,
    behaviour_of,
)
from pipeline.devstack.sandbox.event_plan import EVENT_FIELDS, PlannedEvent, PlannedVisit, planned_actions

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "sandbox.md"


def _row(word: str, pattern: AddressPattern) -> str:
    if pattern.number is None:
        return f"| `{word}` | {pattern.means} |"
    return f"| `{word}`, `{word}-n` | {pattern.means}{f' (n = {pattern.number})' if pattern.number else ''} |"


def test_documentation_lists_every_pattern_as_the_code_has_it() -> None:
    table = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert table[: len(PATTERNS)] == [_row(word, pattern) for word, pattern in PATTERNS.items()]


def test_documentation_lists_every_event_that_can_be_sent_by_hand() -> None:
    assert ", ".join(f"`{name}`" for name in EVENT_FIELDS) in DOCS.read_text()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("anna@example.test", RecipientBehaviour(steps=("delivered",))),
        ("anna+news@example.test", RecipientBehaviour(steps=("delivered",))),
        ("ANNA+Open+CLICK@Example.Test", RecipientBehaviour(steps=("delivered", "open", "click"))),
        ("anna+open+delivered@example.test", RecipientBehaviour(steps=("open", "delivered"))),
        ("anna+bounce-later@example.test", RecipientBehaviour(steps=("bounce",))),
        ("anna+delivered+bounce-later@example.test", RecipientBehaviour(steps=("delivered", "bounce"))),
        ("complaint@example.test", RecipientBehaviour(steps=("delivered", "complaint"))),
        ("anna+silent+open@example.test", RecipientBehaviour(steps=("open",), silent=True)),
        ("anna+duplicated+late@example.test", RecipientBehaviour(steps=("delivered",), copies=3, late=5.0)),
        ("anna+late-2+forged@example.test", RecipientBehaviour(steps=("delivered",), late=2.0, forged=True)),
        ("anna+slow-7@example.test", RecipientBehaviour(steps=("delivered",), slow=7.0)),
        ("jörg+disordered@exämple.test", RecipientBehaviour(steps=("delivered",), disordered=True)),
        ("anna+open-2@example.test", RecipientBehaviour(steps=("delivered",))),
        ("no-at-sign+open", RecipientBehaviour(steps=("delivered",))),
    ],
)
def test_address_decides_the_behaviour(address: str, expected: RecipientBehaviour) -> None:
    assert behaviour_of(address) == expected


@pytest.mark.parametrize(
    ("address", "code", "attempts"),
    [
        ("bounce@example.test", "550 5.1.1", None),
        ("anna+bounce-soft@example.test", "552 5.2.2", None),
        ("anna+deferred@example.test", "450 4.2.1", 1),
        ("anna+deferred-3@example.test", "450 4.2.1", 3),
        ("anna+deferred-forever@example.test", "451 4.7.1", None),
    ],
)
def test_address_decides_the_smtp_refusal(address: str, code: str, attempts: int | None) -> None:
    refusal = behaviour_of(address).on_rcpt
    assert refusal is not None
    assert (refusal.answer[:9], refusal.attempts) == (code, attempts)


def test_connection_is_dropped_always_or_at_the_first_attempts() -> None:
    assert behaviour_of("drop-connection@x.test").hang_up == SmtpRefusal("", None)
    assert behaviour_of("drop-connection-2@x.test").hang_up == SmtpRefusal("", 2)
    assert behaviour_of("drop-after-data-1@x.test").vanish == SmtpRefusal("", 1)


def _timed_steps(address: str, pace: float = 1.0) -> list[tuple[float, str]]:
    actions = planned_actions(behaviour_of(address), pace)
    return [
        (action.due_after_s, action.event if isinstance(action, PlannedEvent) else action.action) for action in actions
    ]


def test_steps_follow_at_the_pace_and_begin_with_processed() -> None:
    assert _timed_steps("anna+open+click+complaint@x.test") == [
        (0.0, "processed"),
        (0.0, "delivered"),
        (1.0, "open"),
        (2.0, "click"),
        (3.0, "complaint"),
    ]


def test_silent_provider_posts_nothing_but_recipient_still_opens() -> None:
    assert _timed_steps("anna+silent+open@x.test") == [(0.0, "open")]


def test_duplicated_events_are_posted_three_times() -> None:
    posts = [
        action
        for action in planned_actions(behaviour_of("anna+duplicated@x.test"), 1.0)
        if isinstance(action, PlannedEvent)
    ]
    assert sorted((post.number, post.event, post.due_after_s) for post in posts) == [
        *((0, "processed", due) for due in (0.0, 1.0, 2.0)),
        *((1, "delivered", due) for due in (0.0, 1.0, 2.0)),
    ]


def test_disordered_events_are_reversed_and_keep_the_times_of_occurrence() -> None:
    posts = [
        action
        for action in planned_actions(behaviour_of("anna+complaint+disordered@x.test"), 1.0)
        if isinstance(action, PlannedEvent)
    ]
    assert [(post.event, post.occurred_after_s) for post in posts] == [
        ("complaint", 1.0),
        ("delivered", 0.0),
        ("processed", 0.0),
    ]
    assert len({post.due_after_s for post in posts}) == 3


def test_disordered_events_are_apart_in_time_without_any_pace() -> None:
    actions = planned_actions(behaviour_of("anna+disordered@x.test"), 0.0)
    assert [action.event for action in actions if isinstance(action, PlannedEvent)] == ["delivered", "processed"]
    assert len({action.due_after_s for action in actions}) == 2


def test_late_events_are_posted_later_and_keep_the_times_of_occurrence() -> None:
    actions = planned_actions(behaviour_of("anna+late-4+open@x.test"), 1.0)
    posts = [action for action in actions if isinstance(action, PlannedEvent)]
    assert actions[0] == PlannedVisit(1.0, "open", by_robot=False)
    assert [(post.due_after_s, post.occurred_after_s) for post in posts] == [(4.0, 0.0), (4.0, 0.0)]


def test_forged_event_is_a_bounce() -> None:
    forged = [
        action
        for action in planned_actions(behaviour_of("anna+forged@x.test"), 1.0)
        if isinstance(action, PlannedEvent) and action.forged
    ]
    assert [post.event for post in forged] == ["bounce"]
