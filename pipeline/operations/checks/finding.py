"""What a check found, in a person's words."""

from dataclasses import dataclass
from typing import Literal

FindingVerdict = Literal["right", "wrong", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    verdict: FindingVerdict
    text: str
    todo: str = ""


def right(text: str) -> Finding:
    """It works."""
    return Finding("right", text)


def wrong(text: str, todo: str) -> Finding:
    """It doesn't; what to do about it."""
    return Finding("wrong", text, todo)


def note(text: str, todo: str = "") -> Finding:
    """What can't be tried from here, or is worth knowing."""
    return Finding("note", text, todo)
