"""Parser for files of addresses to suppress, such as providers' exports. Pure; the import commands call it.

A file is CSV with or without a heading, JSON lines, or one JSON document that contains a list. Columns are recognized
by their names, because exports differ between providers and over time. Errors name a line, never an address.
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
"""The hash of an address, as our own exports write it."""


class ImportedAddress(msgspec.Struct, frozen=True):
    """A line's address, which is to be listed."""

    line: int
    name: str
    """The address or its hash."""
    reason: SuppressionReason | None = None
    """The line's own reason, if it has one."""
    brand: str = ""


class RejectedLine(msgspec.Struct, frozen=True):
    """A line that can't be used, and the reason, which does not repeat the address."""

    line: int
    error: str


ImportRow = Mapping[str, str]
"""A line's values by the bare names of its columns."""

_ADDRESS_COLUMNS: Final = ("addresshash", "email", "emailaddress", "address", "recipient", "emailid", "mail")
_REASON_COLUMNS: Final = ("suppressionreason", "reason", "type", "bouncetype")
_STATUS_COLUMNS: Final = ("status", "code")
"""Columns that only exports of bounces have (SendGrid, Mailgun)."""
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
    """Return an address or a rejection for every line that is not blank. Raise Refused if the file is not UTF-8."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8 at byte {error.start}", "body") from None
    if text.lstrip()[:1] in ("{", "["):
        return _parse_json(text)
    return _parse_csv(text)


def name_problem(name: str) -> str | None:
    """Return why this is neither a valid address nor a hash of one; None if it is valid."""
    return None if ADDRESS_HASH_PATTERN.fullmatch(name) else address_problem(name)


def reason_of_word(text: str) -> SuppressionReason | None:
    """Return the reason that a provider's word means; None for any other text."""
    return _REASON_BY_WORD.get(_letters(text))


def _parse_json(text: str) -> Iterator[ImportedAddress | RejectedLine]:
    try:
        return _parse_values(enumerate(_entries(msgspec.json.decode(text)), start=1))
    except (msgspec.MsgspecError, RecursionError):
        return _parse_json_lines(text)


def _entries(document: Any) -> list[Any]:
    """Return the list that a provider's answer is or contains, else the document itself as the only entry."""
    if isinstance(document, dict):
        return next((value for value in document.values() if isinstance(value, list)), [document])
    return document if isinstance(document, list) else [document]


def _parse_json_lines(text: str) -> Iterator[ImportedAddress | RejectedLine]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield from _parse_values([(number, msgspec.json.decode(line))])
        except (msgspec.MsgspecError, RecursionError):
            yield RejectedLine(number, "not JSON")


def _parse_values(numbered: Iterable[tuple[int, Any]]) -> Iterator[ImportedAddress | RejectedLine]:
    for number, value in numbered:
        if isinstance(value, str):
            yield _parse_row(number, {"email": value})
        elif isinstance(value, dict):
            yield _parse_row(number, {_letters(str(name)): _text_or_empty(field) for name, field in value.items()})
        else:
            yield RejectedLine(number, "neither an object nor an address")


def _parse_csv(text: str) -> Iterator[ImportedAddress | RejectedLine]:
    first_line = text.lstrip().partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first_line.count)
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
                heading = _guess_heading(cells)
            yield _parse_row(reader.line_num, dict(zip(heading, cells, strict=False)))
    except csv.Error as error:
        yield RejectedLine(reader.line_num, f"not CSV from here on: {error}")


def _heading(cells: list[str]) -> list[str] | None:
    """Return the names of the columns, if this line is a heading."""
    names = [_letters(cell) for cell in cells]
    return names if any(name in _ADDRESS_COLUMNS for name in names) else None


def _guess_heading(cells: list[str]) -> list[str]:
    """Return column names for a file without a heading: the first address, and a reason next to it (Amazon SES)."""
    names = ["" for _ in cells]
    address_at = next(
        (at for at, cell in enumerate(cells) if "@" in cell or ADDRESS_HASH_PATTERN.fullmatch(cell.strip())), 0
    )
    names[address_at] = "email"
    if address_at + 1 < len(cells) and reason_of_word(cells[address_at + 1]):
        names[address_at + 1] = "reason"
    return names


def _parse_row(line: int, row: ImportRow) -> ImportedAddress | RejectedLine:
    name = next((value for column in _ADDRESS_COLUMNS if (value := row.get(column, "").strip())), "")
    if not name:
        return RejectedLine(line, "no address")
    if problem := name_problem(name):
        return RejectedLine(line, problem)
    return ImportedAddress(line, name, _reason(row), row.get("brand", "").strip())


def _reason(row: ImportRow) -> SuppressionReason | None:
    """Return the reason that a row states, or that its columns imply; None if neither."""
    word = next((row[column] for column in _REASON_COLUMNS if row.get(column, "").strip()), "")
    reason = reason_of_word(word)
    if reason is SuppressionReason.MANUAL and _letters(row.get("origin", "")) == "recipient":
        return SuppressionReason.UNSUBSCRIBE  # Postmark's name for recipients who unsubscribed themselves
    if reason is not None:
        return reason
    if codes := [row[column].strip() for column in _STATUS_COLUMNS if column in row]:
        return (
            SuppressionReason.SOFT_BOUNCE
            if any(code.startswith("4") for code in codes)
            else SuppressionReason.HARD_BOUNCE
        )
    return SuppressionReason.UNSUBSCRIBE if "tags" in row else None  # Mailgun's unsubscribes


def _letters(text: str) -> str:
    """Return the text's letters a to z in lower case, so that different spellings of a name compare equal."""
    return re.sub(r"[^a-z]", "", text.casefold())


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
