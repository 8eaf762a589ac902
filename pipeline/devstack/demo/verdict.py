"""What Fast Track had to hear held against what it heard: roles and arrivals in, faults out. Pure.

Shares no code with the product: the words owed come from :mod:`pipeline.devstack.demo.scenario`, the values are
compared by Python's own JSON with exact numbers, and the bytes as bytes.
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
    """The end of the demo."""

    faults: tuple[str, ...]
    expected: Mapping[str, int]
    arrived: Mapping[str, int]
    """Per word, each email once."""
    repeats: int
    """Deliveries of one conversion again, with the same Idempotency-Key: allowed (at least once)."""


def judge(
    roles: Mapping[str, DemoEmail],
    arrivals: Sequence[ReceivedConversion],
    words: frozenset[str],
    said: Mapping[str, WordOrder],
) -> DemoVerdict:
    """``roles`` by email_id; ``words`` must all have occurred; ``said``: in which order the log first said them."""
    faults = [f"{arrival.word} for {arrival.email_id}: nobody sent that" for arrival in _strangers(roles, arrivals)]
    heard: dict[str, list[ReceivedConversion]] = {email_id: [] for email_id in roles}
    for arrival in arrivals:
        if arrival.email_id in heard:
            heard[arrival.email_id].append(arrival)
    for email_id, role in roles.items():
        faults += [
            f"{role.identity} ({email_id}): {fault}" for fault in _of_one(role, heard[email_id], said.get(email_id, ()))
        ]
    arrived = Counter(word for told in heard.values() for word in {arrival.word for arrival in told})
    faults += [f"the word {word} never occurred" for word in sorted(words - set(arrived))]
    repeats = sum(len(told) - len({arrival.word for arrival in told}) for told in heard.values())
    owed = Counter(word for role in roles.values() for word in role.case.expected_words)
    return DemoVerdict(tuple(faults), owed, arrived, repeats)


def is_complete(roles: Mapping[str, DemoEmail], arrivals: Sequence[ReceivedConversion]) -> bool:
    """Whether every owed word arrived, whatever else is true."""
    heard = {(arrival.email_id, arrival.word) for arrival in arrivals}
    return all((email_id, word) in heard for email_id, role in roles.items() for word in role.case.expected_words)


def _strangers(roles: Mapping[str, DemoEmail], arrivals: Sequence[ReceivedConversion]) -> list[ReceivedConversion]:
    return [arrival for arrival in arrivals if arrival.email_id not in roles]


def _of_one(role: DemoEmail, told: list[ReceivedConversion], said: WordOrder) -> list[str]:
    # A repeat right after its first is what at-least-once means; a repeat of an older word is not in order.
    order = tuple(word for word, _ in groupby(arrival.word for arrival in told))
    missing = [word for word in role.case.expected_words if word not in order]
    extra = [word for word in dict.fromkeys(order) if word not in role.case.expected_words]
    faults = [f"{word} is missing" for word in missing] + [f"{word} was never owed" for word in extra]
    if not faults and (len(order) > len(role.case.expected_words) or not is_in_order(order, said)):
        log = ", then ".join(" and ".join(sorted(words)) for words in said)
        faults.append(f"in the wrong order: {', '.join(order)}; the log first said {log}")
    for arrival in told:
        faults += _of_arrival(role, arrival)
    faults += _keys(told)
    return faults


def _of_arrival(role: DemoEmail, arrival: ReceivedConversion) -> list[str]:
    if arrival.brand != role.path:
        return [f"{arrival.word} came to {arrival.brand}, not to {role.path}"]
    if not is_same_json(arrival.activity, role.activity):
        return [f"{arrival.word} brought another activity: {arrival.activity!r}"]
    if arrival.activity != role.activity:
        return [f"{arrival.word} brought its activity in other bytes: {arrival.activity!r}"]
    return []


def _keys(told: list[ReceivedConversion]) -> list[str]:
    """One conversion, one Idempotency-Key; another conversion, another key."""
    by_word: dict[str, set[str]] = {}
    for arrival in told:
        by_word.setdefault(arrival.word, set()).add(arrival.idempotency_key)
    keys = [key for found in by_word.values() for key in found]
    faults = [f"{word} came with {len(found)} Idempotency-Keys" for word, found in by_word.items() if len(found) > 1]
    if "" in keys:
        faults.append("came without an Idempotency-Key")
    return faults + (["two words share an Idempotency-Key"] if len(set(keys)) < len(keys) else [])


def is_same_json(a: bytes, b: bytes) -> bool:
    """Equal as JSON, with exact numbers and the order of fields left aside."""
    try:
        return bool(_typed(_read(a)) == _typed(_read(b)))
    except ValueError:
        return False


def _read(text: bytes) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=int)


def _typed(value: Any) -> Any:
    """Python holds True and 1, and 1 and Decimal(1), for equal; JSON readers needn't."""
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return type(value).__name__, str(value)
