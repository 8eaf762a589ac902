"""What was sent, accepted, handed over, told and broken, in order of arrival; kept in memory and as lines of JSON."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SETTLING = {200, 410}
"""Answers of our receiver after which nothing more may be told of that word."""


@dataclass(frozen=True)
class Mail:
    """A mail that the SMTP sink answered with 250."""

    at: float
    to: str
    message_id: str
    html: str


@dataclass
class Arrival:
    """One conversion as it arrived at the receiver, and what that answered: 0 is no answer that could be read."""

    at: float
    brand: str
    email_id: str
    word: str
    key: str
    body: str
    answered: int = 0
    answered_at: float = 0.0
    mood: str = ""


@dataclass(frozen=True)
class Fault:
    """Something that was broken on purpose; ``target`` is a role, `kafka`, `postgres`, `receiver` or `all`."""

    at: float
    kind: str
    target: str


@dataclass
class Ledger:
    """One scenario's books."""

    accepted: dict[str, str] = field(default_factory=dict)
    """activity.id -> email_id."""
    mails: list[Mail] = field(default_factory=list)
    conversions: list[Arrival] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    exits: list[tuple[str, int]] = field(default_factory=list)
    """(role, exit code) of each process that ended and was started again."""
    answers: Counter[str] = field(default_factory=Counter)
    """What the gateway answered, by surface and status."""
    wrong: list[str] = field(default_factory=list)
    """What was seen to be wrong on the way, before anybody judged."""
    poison: list[tuple[str, int, int]] = field(default_factory=list)
    """(topic, partition, offset) of each record that nobody can read."""

    def fault(self, kind: str, target: str) -> None:
        self.faults.append(Fault(time.time(), kind, target))

    def hit(self, *targets: str) -> int:
        """How many faults hit these."""
        return sum(fault.target in (*targets, "all") for fault in self.faults)

    def told(self) -> set[tuple[str, str]]:
        """(email_id, word) of every conversion that was answered for good."""
        return {(row.email_id, row.word) for row in self.conversions if row.answered in SETTLING}

    def write(self, folder: Path) -> None:
        """The books as files, for whoever looks for the reason."""
        _lines(folder / "accepted.jsonl", ({"id": name, "email_id": email} for name, email in self.accepted.items()))
        _lines(folder / "mails.jsonl", ({**asdict(mail), "html": len(mail.html)} for mail in list(self.mails)))
        _lines(folder / "conversions.jsonl", (asdict(row) for row in self.conversions))
        _lines(folder / "faults.jsonl", (asdict(row) for row in self.faults))
        _lines(folder / "exits.jsonl", ({"role": role, "code": code} for role, code in self.exits))


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
