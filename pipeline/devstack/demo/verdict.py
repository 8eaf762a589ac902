"""The comparison of the conversions that were expected with those that arrived; used by the demo's run. Pure.

It shares no code with the product: the expected conversions are those of :mod:`pipeline.devstack.demo.scenario`,
values are compared by Python's own JSON with exact numbers, and bytes as bytes.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

from pipeline.devstack.demo.order import WordOrder, is_in_order
from pipeline.devstack.demo.receiver import ReceivedConversion
from pipeline.devstack.demo.scenario import DemoEmail


@dataclass(frozen=True)
class DemoVerdict:
    """The result of the demo."""

    faults: tuple[str, ...]
    expected: Mapping[str, int]
    """Emails by conversion."""
    arrived: Mapping[str, int]
    repeats: int
    """Conversions received once more with the same Idempotency-Key, which at-least-once delivery allows."""


def judge(
    emails: Mapping[str, DemoEmail],
    arrivals: Sequence[ReceivedConversion],
    words: frozenset[str],
    log_orders: Mapping[str, WordOrder],
) -> DemoVerdict:
    """Return the verdict on the conversions that arrived.

    ``emails`` and ``log_orders``, the orders that the log has, are by email_id; each of ``words`` must occur.
    """
    unknown = [arrival for arrival in arrivals if arrival.email_id not in emails]
    faults = [f"{arrival.word} for {arrival.email_id}: no such email was sent" for arrival in unknown]
    received: dict[str, list[ReceivedConversion]] = {email_id: [] for email_id in emails}
    for arrival in arrivals:
        if arrival.email_id in received:
            received[arrival.email_id].append(arrival)
    for email_id, email in emails.items():
        email_faults = _email_faults(email, received[email_id], log_orders.get(email_id, ()))
        faults += [f"{email.identity} ({email_id}): {fault}" for fault in email_faults]
    distinct = [{conversion.word for conversion in conversions} for conversions in received.values()]
    arrived = Counter(word for email_words in distinct for word in email_words)
    faults += [f"no email had the conversion {word}" for word in sorted(words - set(arrived))]
    repeats = sum(map(len, received.values())) - sum(map(len, distinct))
    expected = Counter(word for email in emails.values() for word in email.case.expected_words)
    return DemoVerdict(tuple(faults), expected, arrived, repeats)


def is_complete(emails: Mapping[str, DemoEmail], arrivals: Sequence[ReceivedConversion]) -> bool:
    """Return whether every expected conversion arrived, whatever else did."""
    received = {(arrival.email_id, arrival.word) for arrival in arrivals}
    return all((email_id, word) in received for email_id, email in emails.items() for word in email.case.expected_words)


def _email_faults(email: DemoEmail, conversions: list[ReceivedConversion], log_order: WordOrder) -> list[str]:
    # A repeat right after the first is at-least-once delivery; a repeat of an earlier word is out of order.
    order = tuple(word for word, _ in groupby(conversion.word for conversion in conversions))
    expected_words = email.case.expected_words
    missing = [word for word in expected_words if word not in order]
    unexpected = [word for word in dict.fromkeys(order) if word not in expected_words]
    faults = [f"{word} is missing" for word in missing] + [f"{word} was not expected" for word in unexpected]
    if not faults and (len(order) > len(expected_words) or not is_in_order(order, log_order)):
        log_text = ", then ".join(" and ".join(sorted(words)) for words in log_order)
        faults.append(f"in the wrong order: {', '.join(order)}; the log has {log_text}")
    for conversion in conversions:
        faults += _conversion_faults(email, conversion)
    faults += _key_faults(conversions)
    return faults


def _conversion_faults(email: DemoEmail, conversion: ReceivedConversion) -> list[str]:
    word = conversion.word
    if conversion.brand != email.path:
        return [f"{word} came to {conversion.brand}, not to {email.path}"]
    if not is_same_json(conversion.activity, email.activity):
        return [f"{word} brought another activity: {conversion.activity!r}"]
    if conversion.activity != email.activity:
        return [f"{word} brought its activity in other bytes: {conversion.activity!r}"]
    return []


def _key_faults(conversions: list[ReceivedConversion]) -> list[str]:
    """Return what is wrong with the Idempotency-Keys: each conversion must have one of its own."""
    keys_by_word: dict[str, set[str]] = {}
    for conversion in conversions:
        keys_by_word.setdefault(conversion.word, set()).add(conversion.idempotency_key)
    all_keys = [key for keys in keys_by_word.values() for key in keys]
    faults = [f"{word} came with {len(keys)} Idempotency-Keys" for word, keys in keys_by_word.items() if len(keys) > 1]
    if "" in all_keys:
        faults.append("came without an Idempotency-Key")
    return faults + (["two conversions share an Idempotency-Key"] if len(set(all_keys)) < len(all_keys) else [])


def is_same_json(a: bytes, b: bytes) -> bool:
    """Return whether two texts are the same JSON, with exact numbers and whatever the order of fields."""
    try:
        return bool(_with_types(_parse(a)) == _with_types(_parse(b)))
    except ValueError:
        return False


def _parse(text: bytes) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=int)


def _with_types(value: Any) -> Any:
    """Return the value with its types: Python takes True, 1 and Decimal(1) for equal, readers of JSON may not."""
    if isinstance(value, dict):
        return {key: _with_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_types(item) for item in value]
    return type(value).__name__, str(value)
