"""What is known of addresses in, what people and programs are shown of it out: hashes, reasons, events, never more.

An address itself is shown in an export alone, and only to who asks for it.
"""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pipeline.suppressions.queries import SuppressionQueries
from projections.suppressing import Suppression
from projections.suppressions import LOOKUP_MAX_ADDRESSES, AddressAssessment, SuppressionListQuery
from topics.record import EmailId, Millis
from topics.suppressions import SuppressionReason

ExportFormat = Literal["csv", "jsonl"]


class SuppressionView(msgspec.Struct, frozen=True, kw_only=True):
    """An address that gets nothing from a brand."""

    address_hash: Annotated[str, Meta(description="Keyed hash of the address; names it wherever an address does")]
    brand: Annotated[str, Meta(description="`*`: all of the tenant's")]
    reason: SuppressionReason
    since: Annotated[Millis, Meta(description="Milliseconds since 1970, UTC; our clock")]
    listed: Annotated[bool, Meta(description="Somebody decided it; else it follows from what an email told")]
    email_id: Annotated[EmailId | None, Meta(description="The email that told it")] = None
    event_id: Annotated[str, Meta(description="The event of that email, as in `mailfold trace`")] = ""
    by: Annotated[str, Meta(description="Who decided it")] = ""
    note: str = ""


class EvidenceView(msgspec.Struct, frozen=True, kw_only=True):
    """What one email told of the address, whether it still counts or not."""

    brand: str
    reason: SuppressionReason
    at: Millis
    email_id: EmailId
    event_id: str


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """The latest decision for a brand, or for all."""

    brand: str
    listed: Annotated[bool, Meta(description="False: lifted; what was known before counts no more")]
    at: Millis
    by: str
    reason: SuppressionReason | None = None
    note: str = ""


class AddressView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of one address."""

    address_hash: str
    suppressed: Annotated[list[SuppressionView], Meta(description="Empty: it gets mail")]
    evidence: list[EvidenceView]
    decisions: list[DecisionView]


CSV_COLUMNS: Final = tuple(SuppressionView.__struct_fields__)


def suppression_view(address_hash: bytes, why: Suppression) -> SuppressionView:
    """A verdict as it is shown."""
    return SuppressionView(
        address_hash=address_hash.hex(),
        brand=why.brand,
        reason=why.reason,
        since=why.since,
        listed=why.is_listed,
        email_id=why.email_id,
        event_id=why.event_id,
        by=why.by,
        note=why.note,
    )


def address_view(address_hash: bytes, known: Iterable[AddressAssessment]) -> AddressView:
    """All of one address; what was decided for all brands once."""
    suppressed: dict[str, SuppressionView] = {}
    decisions: dict[str, DecisionView] = {}
    evidence: list[EvidenceView] = []
    for one in known:
        if one.suppression is not None:
            suppressed[one.suppression.brand] = suppression_view(address_hash, one.suppression)
        for each in one.decisions:
            decisions[each.brand] = DecisionView(
                brand=each.brand,
                listed=each.reason is not None,
                at=each.at,
                by=each.by,
                reason=each.reason,
                note=each.note,
            )
        evidence += [
            EvidenceView(
                brand=one.key[1], reason=each.reason, at=each.at, email_id=each.email_id, event_id=each.event_id
            )
            for each in one.evidence
        ]
    evidence.sort(key=lambda sign: (sign.at, sign.email_id))
    by_brand = sorted(decisions.values(), key=lambda choice: choice.brand)
    return AddressView(
        address_hash=address_hash.hex(), suppressed=list(suppressed.values()), evidence=evidence, decisions=by_brand
    )


async def export(
    asking: SuppressionQueries, asked: SuppressionListQuery, form: ExportFormat, *, addresses: bool
) -> AsyncIterator[str]:
    """All that is asked for, some hundred lines at once."""
    if form == "csv":
        yield _csv([(*CSV_COLUMNS, "address") if addresses else CSV_COLUMNS])
    while True:
        page = await asking.page(msgspec.structs.replace(asked, limit=LOOKUP_MAX_ADDRESSES))
        entries = [suppression_view(key[2], why) for key, why in page.entries]
        known = await asking.addresses(asked.tenant, [key[2] for key, _ in page.entries]) if addresses else {}
        told = [known.get(key[2], "") if addresses else None for key, _ in page.entries]
        if entries:
            yield _text(entries, told, form)
        if page.next_position is None:
            return
        asked = msgspec.structs.replace(asked, start_after=page.next_position)


def _text(entries: Sequence[SuppressionView], addresses: Sequence[str | None], form: ExportFormat) -> str:
    if form == "csv":
        rows = [msgspec.to_builtins(one).values() for one in entries]
        more = [() if address is None else (address,) for address in addresses]
        return _csv((*row, *address) for row, address in zip(rows, more, strict=True))
    objects = [
        msgspec.to_builtins(one) | ({} if address is None else {"address": address})
        for one, address in zip(entries, addresses, strict=True)
    ]
    return "".join(msgspec.json.encode(one).decode() + "\n" for one in objects)


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
