"""Define the result of a check, as the checks return it and the CLI prints it."""

from dataclasses import dataclass
from typing import Literal

FindingVerdict = Literal["right", "wrong", "note"]


@dataclass(frozen=True)
class Finding:
    """The result of one check, with advice."""

    verdict: FindingVerdict
    text: str
    todo: str = ""


def right(text: str) -> Finding:
    """Return a finding that something works."""
    return Finding("right", text)


def wrong(text: str, todo: str) -> Finding:
    """Return a finding that something does not work, and what to do about it."""
    return Finding("wrong", text, todo)


def note(text: str, todo: str = "") -> Finding:
    """Return a finding that cannot be checked from here, or is only information."""
    return Finding("note", text, todo)
