"""A file of addresses in, as a provider exports it or people keep it; each line's address and reason out. Pure.

CSV with or without a heading, JSON lines, or one JSON document with a list in it. Which column is
which is told by its name, because providers and their ages differ; what can't be used is told by
line, and never by address.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from pipeline.content.addresses import address_problem
from pipeline.errors import Refused
from topics.suppressions import SuppressionReason

ADDRESS_HASH_PATTERN: Final = re.compile(r"[0-9a-fA-F]{64}")
"""An address as our own exports write it."""


class ImportedAddress(msgspec.Struct, frozen=True):
    """An address to list: itself or its hash."""

    line: int
    name: str
    reason: SuppressionReason | None = None
    """What the line itself says."""
    brand: str = ""


class RejectedLine(msgspec.Struct, frozen=True):
    """A line that can't be used, and why; the address isn't repeated."""

    line: int
    error: str


ImportRow = Mapping[str, str]

_ADDRESS_COLUMNS: Final = ("addresshash", "email", "emailaddress", "address", "recipient", "emailid", "mail")
_REASON_COLUMNS: Final = ("suppressionreason", "reason", "type", "bouncetype")
_STATUS_COLUMNS: Final = ("status", "code")
"""Columns that only an export of bounces has (SendGrid, Mailgun)."""
_REASON_BY_WORD: Final = {
    "bounce": SuppressionReason.HARD_BOUNCE,  # Amazon SES
    "bounced": SuppressionReason.HARD_BOUNCE,
    "hardbounce": SuppressionReason.HARD_BOUNCE,  # Postmark
    "permanent": SuppressionReason.HARD_BOUNCE,
    "invalid": SuppressionReason.HARD_BOUNCE,
    "invalidemail": SuppressionReason.HARD_BOUNCE,
    "complaint": SuppressionReason.COMPLAINT,  # Amazon SES
    "complained": SuppressionReason.COMPLAINT,
    "spam": SuppressionReason.COMPLAINT,
    "spamcomplaint": SuppressionReason.COMPLAINT,  # Postmark
    "spamreport": SuppressionReason.COMPLAINT,
    "unsubscribe": SuppressionReason.UNSUBSCRIBE,
    "unsubscribed": SuppressionReason.UNSUBSCRIBE,
    "unsubscription": SuppressionReason.UNSUBSCRIBE,
    "softbounce": SuppressionReason.SOFT_BOUNCE,
    "soft": SuppressionReason.SOFT_BOUNCE,
    "manual": SuppressionReason.MANUAL,
    "manualsuppression": SuppressionReason.MANUAL,  # Postmark
}
_DELIMITERS: Final = ",;\t"


def parse_file(body: bytes) -> Iterator[ImportedAddress | RejectedLine]:
    """Every line that says something. Raises Refused where the whole is unreadable."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8 at byte {error.start}", "body") from None
    if text.lstrip()[:1] in ("{", "["):
        return _json(text)
    return _csv(text)


def name_problem(name: str) -> str | None:
    """What keeps this from being an address or a hash of one; None if nothing does."""
    return None if ADDRESS_HASH_PATTERN.fullmatch(name) else address_problem(name)


def reason_of_word(text: str) -> SuppressionReason | None:
    """The reason that a word means; None for any other text."""
    return _REASON_BY_WORD.get(_bare(text))


def _json(text: str) -> Iterator[ImportedAddress | RejectedLine]:
    try:
        return _objects(enumerate(_listed(msgspec.json.decode(text)), start=1))
    except (msgspec.MsgspecError, RecursionError):
        return _lines(text)


def _listed(document: Any) -> list[Any]:
    """The list in a provider's answer: itself, or what the object around it holds."""
    if isinstance(document, dict):
        return next((value for value in document.values() if isinstance(value, list)), [document])
    return document if isinstance(document, list) else [document]


def _lines(text: str) -> Iterator[ImportedAddress | RejectedLine]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield from _objects([(number, msgspec.json.decode(line))])
        except (msgspec.MsgspecError, RecursionError):
            yield RejectedLine(number, "not JSON")


def _objects(numbered: Iterable[tuple[int, Any]]) -> Iterator[ImportedAddress | RejectedLine]:
    for number, value in numbered:
        if isinstance(value, str):
            yield _found(number, {"email": value})
        elif isinstance(value, dict):
            yield _found(number, {_bare(str(name)): _text(told) for name, told in value.items()})
        else:
            yield RejectedLine(number, "neither an object nor an address")


def _csv(text: str) -> Iterator[ImportedAddress | RejectedLine]:
    first = text.lstrip().partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    heading: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if heading is None:
                heading = _heading(cells)
                if heading is not None:
                    continue
                heading = _unnamed(cells)
            yield _found(reader.line_num, dict(zip(heading, cells, strict=False)))
    except csv.Error as error:
        yield RejectedLine(reader.line_num, f"not CSV from here on: {error}")


def _heading(cells: list[str]) -> list[str] | None:
    names = [_bare(cell) for cell in cells]
    return names if any(name in _ADDRESS_COLUMNS for name in names) else None


def _unnamed(cells: list[str]) -> list[str]:
    """Names for columns that have none: an address first seen, and a reason beside it (Amazon SES)."""
    at = next((nth for nth, cell in enumerate(cells) if "@" in cell or ADDRESS_HASH_PATTERN.fullmatch(cell.strip())), 0)
    beside = "reason" if at + 1 < len(cells) and reason_of_word(cells[at + 1]) else "more"
    return ["" if nth < at else "email" if nth == at else beside if nth == at + 1 else "" for nth in range(len(cells))]


def _found(line: int, row: ImportRow) -> ImportedAddress | RejectedLine:
    name = next((told for column in _ADDRESS_COLUMNS if (told := row.get(column, "").strip())), "")
    if not name:
        return RejectedLine(line, "no address")
    if problem := name_problem(name):
        return RejectedLine(line, problem)
    return ImportedAddress(line, name, _reason(row), row.get("brand", "").strip())


def _reason(row: ImportRow) -> SuppressionReason | None:
    told = next((row[column] for column in _REASON_COLUMNS if row.get(column, "").strip()), "")
    known = reason_of_word(told)
    if known is SuppressionReason.MANUAL and _bare(row.get("origin", "")) == "recipient":
        return SuppressionReason.UNSUBSCRIBE  # so Postmark calls what its recipients did themselves
    if known is not None:
        return known
    if codes := [row[column].strip() for column in _STATUS_COLUMNS if column in row]:
        return (
            SuppressionReason.SOFT_BOUNCE
            if any(code.startswith("4") for code in codes)
            else SuppressionReason.HARD_BOUNCE
        )
    return SuppressionReason.UNSUBSCRIBE if "tags" in row else None  # Mailgun's unsubscribes


def _bare(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.casefold())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
