"""What an email's facts amount to, in plain Python over plain JSON: written from the design, not from the product.

Order and repeats don't matter: evidence is collected per kind, and minima, maxima and sets are taken at the end.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Fact = dict[str, Any]
Evidence = tuple[int, int, int]
"""When it happened (never later than we heard of it), when we heard of it, the hash of its id."""

SKETCH = 32
CORRECTIONS = 256
TEXT, WORD = 4_000, 300
PROVIDER_IDS = 16
ACKS = {"acked": "sent", "deferred": "deferred", "rejected": "bounced", "dropped": "dropped", "failed": "failed"}
DETAILS = {"bounced": "bounce", "complained": "complaint", "dropped": "drop", "failed": "failure"}
ENDS = ("given_up", "refused", "delivered")
"""Outcomes that settle, the strongest last."""

# RFC 3463 and its registry: details that blame the address. RFC 5321, 7504: codes that do where no detail tells more.
# The facts of these runs say nothing else in words; what words mean is tested in tests/unit/topics/test_refusals.py.
HARD_DETAILS = {f"1.{n}" for n in (0, 1, 2, 3, 4, 6, 10)} | {"2.1", "4.4", "4.310", "7.13", "7.17"}
HARD_CODES = {550, 551, 553}
NO_MAIL_CODES = {521, 556}

PRECEDENCE = ("complained", "bounced", "failed", "dropped", "clicked", "opened", "delivered")


def kind_of(fact: Fact) -> str:
    return str(fact["type"].partition("/")[0])


def event_of(fact: Fact) -> str:
    """What a fact is known by; two with the same id are one fact, seen twice."""
    return "request" if kind_of(fact) == "send-request" else str(fact["event_id"])


def hashed(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big") >> 1


@dataclass
class Heard:
    """All evidence of one email, by kind."""

    requests: list[Fact] = field(default_factory=list)
    marks: dict[str, set[Evidence]] = field(default_factory=lambda: defaultdict(set))
    details: dict[str, list[list[Any]]] = field(default_factory=lambda: defaultdict(list))
    provider_ids: set[tuple[str, str]] = field(default_factory=set)
    settled: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    corrected: list[list[Any]] = field(default_factory=list)


def state_of(email_id: str, facts: Iterable[Fact]) -> dict[str, Any]:
    """The state that these facts of one email give, as it must lie on the changelog."""
    summary = Heard()
    for fact in facts:
        kind = kind_of(fact)
        if kind == "send-request":
            summary.requests.append(fact)
            summary.marks["accepted"].add((fact["recorded_at"], fact["recorded_at"], hashed(email_id)))
        elif kind == "conversion-result":
            if fact["outcome"] in ENDS:
                summary.settled[fact["word"]].append((ENDS.index(fact["outcome"]), -_when(fact)))
        elif kind == "retraction":
            summary.corrected.append(_corrected(fact, "", None))
        else:
            _hear(fact, kind, summary)
    return _assemble(email_id, summary)


def _hear(fact: Fact, kind: str, summary: Heard) -> None:
    evidence = (_when(fact), fact["recorded_at"], hashed(fact["event_id"]))
    name = _name(fact, kind)
    summary.marks[name].add(evidence)
    if fact.get("means_delivered"):
        summary.marks["delivered"].add(evidence)
    if name in DETAILS:
        summary.details[DETAILS[name]].append(_detail(fact, name))
    if fact.get("corrects"):
        summary.corrected.append(_corrected(fact, name, _detail(fact, name) if name in DETAILS else None))
    if fact.get("provider_message_id"):
        summary.provider_ids.add((fact.get("provider", ""), fact["provider_message_id"]))


def _corrected(fact: Fact, mark: str, detail: list[Any] | None) -> list[Any]:
    revision, was, at = fact["corrects"]
    return [was, mark, hashed(fact["event_id"]), revision, at, detail]


def _name(fact: Fact, kind: str) -> str:
    if kind != "delivery-event":
        return ACKS[kind]
    told = str(fact["kind"])
    if told == "deferred":
        return "delayed"
    return f"{told}_machine" if fact.get("machine") and told in ("opened", "clicked") else told


def _when(fact: Fact) -> int:
    return int(min(fact["occurred_at"], fact["recorded_at"]))


def _detail(fact: Fact, name: str) -> list[Any]:
    code, enhanced = fact.get("code", 0), fact.get("enhanced", "")
    hard = None
    if name == "bounced":
        hard = fact.get("bounce_class") or _bounce_class(code, enhanced)
    said = ((fact.get("bounce_type") or fact.get("reason") or "")[:WORD], fact.get("bounce_subtype", "")[:WORD])
    rest = (code, enhanced[:WORD], fact.get("text", "")[:TEXT], fact.get("provider", ""), hard)
    return [_when(fact), fact["recorded_at"], fact["event_id"], *said, *rest]


def _bounce_class(code: int, enhanced: str) -> str:
    detail = enhanced.partition(".")[2]
    if enhanced.startswith("4") or (not enhanced and code // 100 == 4):
        return "soft"
    if code in NO_MAIL_CODES:
        return "hard"
    if detail in ("", "0.0"):
        return "hard" if code in HARD_CODES else "soft"
    return "hard" if detail in HARD_DETAILS else "soft"


def _assemble(email_id: str, summary: Heard) -> dict[str, Any]:
    state: dict[str, Any] = {"type": "email-state/1", "email_id": email_id}
    if summary.requests:
        state["request"] = min(summary.requests, key=lambda fact: (fact["recorded_at"], _bytes(fact)))
    for name, evidence in summary.marks.items():
        ids = sorted({one for _, _, one in evidence})
        times = [at for at, _, _ in evidence]
        recorded = min(recorded_at for _, recorded_at, _ in evidence)
        state[name] = [min(times), max(times), recorded, ids[:SKETCH]]
    for name, details in summary.details.items():
        state[name] = min(details, key=lambda row: (row[9] != "hard", row[0], row[1], _bytes(row)))
    if summary.provider_ids:
        state["provider_ids"] = [list(pair) for pair in sorted(summary.provider_ids)[:PROVIDER_IDS]]
    if summary.settled:
        strongest = {word: max(ends) for word, ends in summary.settled.items()}
        state["settled"] = {word: [ENDS[strength], -at] for word, (strength, at) in strongest.items()}
    if summary.corrected:
        state["corrected"] = _newest(summary.corrected)
    return state


def _newest(rows: list[list[Any]]) -> list[list[Any]]:
    """Each pair of kinds' ids with their highest revision, the smallest ids."""
    pairs: dict[tuple[str, str], dict[int, list[Any]]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row[3], -row[4], _bytes(row))):
        pairs[row[0], row[1]][row[2]] = row
    kept = []
    for _, by_id in sorted(pairs.items()):
        kept += [by_id[one] for one in sorted(by_id)[:SKETCH]]
    return kept[:CORRECTIONS]


def _bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def status_of(state: dict[str, Any]) -> str:
    """One word for a state."""
    for name in PRECEDENCE:
        if name in state:
            return name
    if "delayed" in state:
        return "deferred"
    if "sent" in state or "queued" in state:
        return "sent"
    if "deferred" in state:
        return "deferred"
    return "accepted" if "accepted" in state else "unknown"
