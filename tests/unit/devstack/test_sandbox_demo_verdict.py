"""Test that the demo's verdict can fail: each way in which a conversion can be wrong is found and named."""

import json
from dataclasses import replace

import pytest

from pipeline.devstack.demo.order import is_in_order, word_orders
from pipeline.devstack.demo.receiver import CONVERSION_WORDS, ReceivedConversion
from pipeline.devstack.demo.scenario import (
    BRAND_PATHS,
    DEMO_CASES,
    SUPPRESSED_CASE,
    DemoCase,
    DemoEmail,
    batch_body,
    first_emails,
    second_emails,
    warm_up_emails,
)
from pipeline.devstack.demo.verdict import is_complete, is_same_json, judge

ACTIVITY = b'{"id": "x", "brand_id": 1, "n": 123456789012345678901234567890}'
CLICKED = DemoEmail(DemoCase("t", "open+click", 1, ("delivered", "open", "click")), 1, "x", "a@b.test", ACTIVITY)
ROLES = {"e1": CLICKED}
NONE: frozenset[str] = frozenset()


def arrival(word: str, number: int = 1, **changes: object) -> ReceivedConversion:
    made = ReceivedConversion(number, "nordlicht", "e1", word, ACTIVITY, f"e1:{word}")
    return replace(made, **changes)  # type: ignore[arg-type]  # a field's name with its own type, in each call


SAID = {"e1": (frozenset({"delivered"}), frozenset({"open"}), frozenset({"click"}))}
GOOD = [arrival("delivered"), arrival("open", 2), arrival("click", 3)]


def test_expected_conversions_in_order_with_their_activity_are_no_fault() -> None:
    verdict = judge(ROLES, GOOD, NONE, SAID)
    assert verdict.faults == ()
    assert (verdict.expected, verdict.arrived) == ({"delivered": 1, "open": 1, "click": 1},) * 2


def test_repeat_with_the_same_key_is_allowed_and_counted() -> None:
    verdict = judge(ROLES, [GOOD[0], GOOD[0], *GOOD[1:]], NONE, SAID)
    assert (verdict.faults, verdict.repeats) == ((), 1)


@pytest.mark.parametrize(
    ("arrivals", "complaint"),
    [
        (GOOD[:2], "click is missing"),
        (GOOD[1:], "delivered is missing"),
        ([], "open is missing"),
        ([*GOOD, arrival("bounce", 4)], "bounce was never owed"),
        ([GOOD[1], GOOD[0], GOOD[2]], "in the wrong order: open, delivered, click"),
        ([*GOOD, GOOD[0]], "in the wrong order: delivered, open, click, delivered"),
        ([*GOOD[:2], arrival("click", activity=ACTIVITY.replace(b"7890}", b"7891}"))], "another activity"),
        ([*GOOD[:2], arrival("click", activity=ACTIVITY.replace(b": ", b":"))], "in other bytes"),
        ([*GOOD[:2], arrival("click", activity=b"not json")], "another activity"),
        ([*GOOD[:2], arrival("click", brand="suedwind")], "came to suedwind, not to nordlicht"),
        ([*GOOD, arrival("click", idempotency_key="other")], "click came with 2 Idempotency-Keys"),
        ([*GOOD[:2], arrival("click", idempotency_key="")], "without an Idempotency-Key"),
        ([*GOOD[:2], arrival("click", idempotency_key="e1:open")], "two words share an Idempotency-Key"),
        ([*GOOD, arrival("open", email_id="e2")], "open for e2: nobody sent that"),
    ],
)
def test_each_fault_is_named(arrivals: list[ReceivedConversion], complaint: str) -> None:
    faults = judge(ROLES, arrivals, NONE, SAID).faults
    assert any(complaint in fault for fault in faults), faults


def test_word_that_never_occurred_is_a_fault() -> None:
    assert judge(ROLES, GOOD, frozenset({"open", "spam"}), SAID).faults == ("the word spam never occurred",)


def test_complete_means_every_expected_word_arrived() -> None:
    assert is_complete(ROLES, GOOD)
    assert not is_complete(ROLES, GOOD[:2])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (b'{"a":1,"b":2}', b'{"b": 2, "a": 1}', True),
        (b'"\\u00e9"', '"é"'.encode(), True),
        (b"12345678901234567890123", b"12345678901234567890124", False),
        (b"1", b"1.0", False),
        (b"1", b"true", False),
        (b"[1,2]", b"[2,1]", False),
        (b"{", b"{", False),
    ],
)
def test_json_values_are_compared_exactly(a: bytes, b: bytes, same: bool) -> None:
    assert is_same_json(a, b) is same


def test_scenario_has_forty_emails_two_brands_and_all_seven_words() -> None:
    roles = [*warm_up_emails(), *first_emails(), *second_emails()]
    assert len(first_emails()) >= 40
    assert {role.brand for role in roles} == set(BRAND_PATHS)
    assert {word for role in roles for word in role.case.expected_words} == CONVERSION_WORDS
    assert len({role.identity for role in roles}) == len(roles)


def test_dropped_addresses_bounced_hard_before() -> None:
    bounced = {(role.brand, role.address) for role in first_emails() if role.case.pattern == "bounce"}
    assert {(role.brand, role.address) for role in second_emails()} == bounced
    assert SUPPRESSED_CASE.pattern == next(scene.pattern for scene in DEMO_CASES if "no such mailbox" in scene.title)


def test_batch_body_holds_each_activity_byte_for_byte() -> None:
    roles = first_emails()
    body = batch_body(roles)
    assert [message["activity"]["id"] for message in json.loads(body)] == [role.identity for role in roles]
    assert all(role.activity in body for role in roles)
    assert max(abs(json.loads(role.activity)["internal_user_id"]) for role in roles) > 2**64


def change(email_id: str, *marks: str) -> bytes:
    return json.dumps({"state": {"email_id": email_id, **{key: [1, 1, 1, [1]] for key in marks}}}).encode()


def test_word_orders_group_the_words_of_each_change_once() -> None:
    said = word_orders(
        [change("a", "accepted"), change("a", "opened", "delivered"), change("b"), change("a", "clicked")]
    )
    assert said == {"a": (frozenset({"open", "delivered"}), frozenset({"click"})), "b": ()}


@pytest.mark.parametrize(
    ("told", "fine"),
    [
        (("delivered", "open", "click"), True),
        (("open", "delivered", "click"), True),
        (("open", "click", "delivered"), False),
        (("spam", "open"), False),
    ],
)
def test_only_words_of_one_change_may_come_in_any_order(told: tuple[str, ...], fine: bool) -> None:
    order = (frozenset({"open", "delivered"}), frozenset({"click"}))
    assert is_in_order(told, order) is fine


def test_order_on_the_log_is_the_expected_one() -> None:
    turned = {"e1": (frozenset({"open"}), frozenset({"delivered"}), frozenset({"click"}))}
    assert judge(ROLES, [GOOD[1], GOOD[0], GOOD[2]], NONE, turned).faults == ()
    assert "in the wrong order" in judge(ROLES, GOOD, NONE, turned).faults[0]
