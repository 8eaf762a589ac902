"""The demo's verdict detects and names each way in which a conversion can be wrong."""

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
EMAILS = {"e1": CLICKED}
NONE: frozenset[str] = frozenset()


def arrival(word: str, number: int = 1, **changes: object) -> ReceivedConversion:
    conversion = ReceivedConversion(number, "nordlicht", "e1", word, ACTIVITY, f"e1:{word}")
    return replace(conversion, **changes)  # type: ignore[arg-type]  # a field's name with its own type, in each call


LOG_ORDERS = {"e1": (frozenset({"delivered"}), frozenset({"open"}), frozenset({"click"}))}
GOOD = [arrival("delivered"), arrival("open", 2), arrival("click", 3)]


def test_expected_conversions_in_order_with_their_activity_have_no_fault() -> None:
    verdict = judge(EMAILS, GOOD, NONE, LOG_ORDERS)
    assert verdict.faults == ()
    assert (verdict.expected, verdict.arrived) == ({"delivered": 1, "open": 1, "click": 1},) * 2


def test_repeat_with_the_same_key_is_allowed_and_counted() -> None:
    verdict = judge(EMAILS, [GOOD[0], GOOD[0], *GOOD[1:]], NONE, LOG_ORDERS)
    assert (verdict.faults, verdict.repeats) == ((), 1)


@pytest.mark.parametrize(
    ("arrivals", "expected_fault"),
    [
        (GOOD[:2], "click is missing"),
        (GOOD[1:], "delivered is missing"),
        ([], "open is missing"),
        ([*GOOD, arrival("bounce", 4)], "bounce was not expected"),
        ([GOOD[1], GOOD[0], GOOD[2]], "in the wrong order: open, delivered, click"),
        ([*GOOD, GOOD[0]], "in the wrong order: delivered, open, click, delivered"),
        ([*GOOD[:2], arrival("click", activity=ACTIVITY.replace(b"7890}", b"7891}"))], "another activity"),
        ([*GOOD[:2], arrival("click", activity=ACTIVITY.replace(b": ", b":"))], "in other bytes"),
        ([*GOOD[:2], arrival("click", activity=b"not json")], "another activity"),
        ([*GOOD[:2], arrival("click", brand="suedwind")], "came to suedwind, not to nordlicht"),
        ([*GOOD, arrival("click", idempotency_key="other")], "click came with 2 Idempotency-Keys"),
        ([*GOOD[:2], arrival("click", idempotency_key="")], "without an Idempotency-Key"),
        ([*GOOD[:2], arrival("click", idempotency_key="e1:open")], "two conversions share an Idempotency-Key"),
        ([*GOOD, arrival("open", email_id="e2")], "open for e2: no such email was sent"),
    ],
)
def test_each_fault_is_named(arrivals: list[ReceivedConversion], expected_fault: str) -> None:
    faults = judge(EMAILS, arrivals, NONE, LOG_ORDERS).faults
    assert any(expected_fault in fault for fault in faults), faults


def test_conversion_that_no_email_had_is_a_fault() -> None:
    assert judge(EMAILS, GOOD, frozenset({"open", "spam"}), LOG_ORDERS).faults == ("no email had the conversion spam",)


def test_run_is_complete_when_every_expected_conversion_arrived() -> None:
    assert is_complete(EMAILS, GOOD)
    assert not is_complete(EMAILS, GOOD[:2])


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


def test_scenario_has_118_emails_two_brands_and_all_seven_conversions() -> None:
    emails = [*warm_up_emails(), *first_emails(), *second_emails()]
    assert len(emails) == 118, "the README and the command's help name this number"
    assert {email.brand for email in emails} == set(BRAND_PATHS)
    assert {word for email in emails for word in email.case.expected_words} == CONVERSION_WORDS
    assert len({email.identity for email in emails}) == len(emails)
    assert max(len(email.case.title) for email in emails) <= 26


def test_suppressed_emails_go_to_addresses_that_bounced() -> None:
    bounced = {(email.brand, email.address) for email in first_emails() if email.case.pattern == "bounce"}
    assert {(email.brand, email.address) for email in second_emails()} == bounced
    assert SUPPRESSED_CASE.pattern == next(case.pattern for case in DEMO_CASES if "no such mailbox" in case.title)


def test_batch_is_json_with_each_activity_byte_for_byte() -> None:
    emails = first_emails()
    body = batch_body(emails)
    assert [message["activity"]["id"] for message in json.loads(body)] == [email.identity for email in emails]
    assert all(email.activity in body for email in emails)
    assert max(abs(json.loads(email.activity)["internal_user_id"]) for email in emails) > 2**64


def change(email_id: str, *marks: str) -> bytes:
    return json.dumps({"state": {"email_id": email_id, **{key: [1, 1, 1, [1]] for key in marks}}}).encode()


def test_log_order_groups_the_conversions_of_one_change() -> None:
    orders = word_orders(
        [change("a", "accepted"), change("a", "opened", "delivered"), change("b"), change("a", "clicked")]
    )
    assert orders == {"a": (frozenset({"open", "delivered"}), frozenset({"click"})), "b": ()}


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (("delivered", "open", "click"), True),
        (("open", "delivered", "click"), True),
        (("open", "click", "delivered"), False),
        (("spam", "open"), False),
    ],
)
def test_only_conversions_of_one_change_may_arrive_in_any_order(received: tuple[str, ...], expected: bool) -> None:
    order = (frozenset({"open", "delivered"}), frozenset({"click"}))
    assert is_in_order(received, order) is expected


def test_reversed_order_is_right_where_the_log_has_it() -> None:
    reversed_orders = {"e1": (frozenset({"open"}), frozenset({"delivered"}), frozenset({"click"}))}
    assert judge(EMAILS, [GOOD[1], GOOD[0], GOOD[2]], NONE, reversed_orders).faults == ()
    assert "in the wrong order" in judge(EMAILS, GOOD, NONE, reversed_orders).faults[0]
