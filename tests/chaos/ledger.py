"""The record of a run: messages accepted, emails sent, conversions and faults, in memory and as lines of JSON."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SETTLING = {200, 410}
"""Answers of our receiver after which that conversion must not be sent again."""


@dataclass(frozen=True)
class Mail:
    """An email that the SMTP sink accepted."""

    at: float
    to: str
    message_id: str
    html: str


@dataclass
class Arrival:
    """A conversion as it arrived at the receiver, and the answer; 0 stands for an answer that cannot be read."""

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
    """A fault that was caused on purpose; ``target`` is a role, `kafka`, `postgres`, `receiver` or `all`."""

    at: float
    kind: str
    target: str


@dataclass(frozen=True)
class Post:
    """A posted batch and the status of its answer; 0 stands for none."""

    began: float
    ended: float
    status: int


@dataclass
class Ledger:
    """The record of one scenario."""

    accepted: dict[str, str] = field(default_factory=dict)
    """activity.id -> email_id."""
    mails: list[Mail] = field(default_factory=list)
    conversions: list[Arrival] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    exits: list[tuple[str, int]] = field(default_factory=list)
    """Role and exit code of each process that ended and was restarted."""
    posts: list[Post] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """Number of the gateway's answers, by API and status."""
    wrong: list[str] = field(default_factory=list)
    """Breaches that were found during the run, before the final checks."""
    poison: list[tuple[str, int, int]] = field(default_factory=list)
    """Topic, partition and offset of each invalid record."""

    def fault(self, kind: str, target: str) -> None:
        self.faults.append(Fault(time.time(), kind, target))

    def hit(self, *targets: str) -> int:
        """Return how many faults hit these targets."""
        return sum(fault.target in (*targets, "all") for fault in self.faults)

    def told(self) -> set[tuple[str, str]]:
        """Return the email id and word of every conversion that was settled by its answer."""
        return {(row.email_id, row.word) for row in self.conversions if row.answered in SETTLING}

    def write(self, folder: Path) -> None:
        """Write the record to files, to analyse a failure."""
        _lines(folder / "accepted.jsonl", ({"id": name, "email_id": email} for name, email in self.accepted.items()))
        _lines(folder / "mails.jsonl", ({**asdict(mail), "html": len(mail.html)} for mail in list(self.mails)))
        _lines(folder / "conversions.jsonl", (asdict(row) for row in self.conversions))
        _lines(folder / "faults.jsonl", (asdict(row) for row in self.faults))
        _lines(folder / "exits.jsonl", ({"role": role, "code": code} for role, code in self.exits))


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
