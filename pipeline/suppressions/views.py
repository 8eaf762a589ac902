"""The output form of suppressions: hashes, reasons and events, for the HTTP routes and `mailfold suppressions`.

Addresses themselves appear only in an export, and only if its caller requests them.
"""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pipeline.suppressions.queries import SuppressionQueries
from projections.suppression_rules import Suppression
from projections.suppressions import LOOKUP_MAX_ADDRESSES, AddressAssessment, SuppressionListQuery
from topics.record import EmailId, Millis
from topics.suppressions import SuppressionReason

ExportFormat = Literal["csv", "jsonl"]


class SuppressionView(msgspec.Struct, frozen=True, kw_only=True):
    """A suppressed address: it gets no mail from a brand."""

    address_hash: Annotated[str, Meta(description="Keyed hash of the address; accepted wherever an address is")]
    brand: Annotated[str, Meta(description="`*`: all of the tenant's")]
    reason: SuppressionReason
    since: Annotated[Millis, Meta(description="Milliseconds since 1970, UTC; our clock")]
    listed: Annotated[bool, Meta(description="True: a decision; false: it follows from an event of an email")]
    email_id: Annotated[EmailId | None, Meta(description="The email whose event is the reason")] = None
    event_id: Annotated[str, Meta(description="The event of that email, as in `mailfold trace`")] = ""
    by: Annotated[str, Meta(description="Who decided it")] = ""
    note: str = ""


class EvidenceView(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence about the address from one email, whether it still counts or not."""

    brand: str
    reason: SuppressionReason
    at: Millis
    email_id: EmailId
    event_id: str


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """The latest decision for a brand, or for all."""

    brand: str
    listed: Annotated[bool, Meta(description="False: lifted; earlier evidence no longer counts")]
    at: Millis
    by: str
    reason: SuppressionReason | None = None
    note: str = ""


class AddressView(msgspec.Struct, frozen=True, kw_only=True):
    """All suppressions, evidence and decisions of one address."""

    address_hash: str
    suppressed: Annotated[list[SuppressionView], Meta(description="Empty: it gets mail")]
    evidence: list[EvidenceView]
    decisions: list[DecisionView]


CSV_COLUMNS: Final = tuple(SuppressionView.__struct_fields__)


def suppression_view(address_hash: bytes, suppression: Suppression) -> SuppressionView:
    """Return the view of one suppression."""
    return SuppressionView(
        address_hash=address_hash.hex(),
        brand=suppression.brand,
        reason=suppression.reason,
        since=suppression.since,
        listed=suppression.is_listed,
        email_id=suppression.email_id,
        event_id=suppression.event_id,
        by=suppression.by,
        note=suppression.note,
    )


def address_view(address_hash: bytes, assessments: Iterable[AddressAssessment]) -> AddressView:
    """Return the view of one address from its assessments; a decision for all brands appears once."""
    suppressed: dict[str, SuppressionView] = {}
    decisions: dict[str, DecisionView] = {}
    evidence: list[EvidenceView] = []
    for assessment in assessments:
        if assessment.suppression is not None:
            suppressed[assessment.suppression.brand] = suppression_view(address_hash, assessment.suppression)
        for decision in assessment.decisions:
            decisions[decision.brand] = DecisionView(
                brand=decision.brand,
                listed=decision.reason is not None,
                at=decision.at,
                by=decision.by,
                reason=decision.reason,
                note=decision.note,
            )
        evidence += [
            EvidenceView(
                brand=assessment.key[1],
                reason=each.reason,
                at=each.at,
                email_id=each.email_id,
                event_id=each.event_id,
            )
            for each in assessment.evidence
        ]
    evidence.sort(key=lambda each: (each.at, each.email_id))
    by_brand = sorted(decisions.values(), key=lambda decision: decision.brand)
    return AddressView(
        address_hash=address_hash.hex(), suppressed=list(suppressed.values()), evidence=evidence, decisions=by_brand
    )


async def export(
    queries: SuppressionQueries, query: SuppressionListQuery, form: ExportFormat, *, addresses: bool
) -> AsyncIterator[str]:
    """Yield all suppressions that match, as text of some hundred lines each.

    With ``addresses`` each line also has its address, empty if the history does not contain it any more.
    """
    if form == "csv":
        yield _csv_text([(*CSV_COLUMNS, "address") if addresses else CSV_COLUMNS])
    while True:
        page = await queries.page(msgspec.structs.replace(query, limit=LOOKUP_MAX_ADDRESSES))
        views = [suppression_view(key[2], suppression) for key, suppression in page.entries]
        by_hash = await queries.addresses(query.tenant, [key[2] for key, _ in page.entries]) if addresses else {}
        page_addresses = [by_hash.get(key[2], "") if addresses else None for key, _ in page.entries]
        if views:
            yield _page_text(views, page_addresses, form)
        if page.next_position is None:
            return
        query = msgspec.structs.replace(query, start_after=page.next_position)


def _page_text(views: Sequence[SuppressionView], addresses: Sequence[str | None], form: ExportFormat) -> str:
    """Return a page's lines; a line has no address where ``addresses`` has None."""
    if form == "csv":
        rows = [msgspec.to_builtins(view).values() for view in views]
        address_cells = [() if address is None else (address,) for address in addresses]
        return _csv_text((*row, *cells) for row, cells in zip(rows, address_cells, strict=True))
    objects = [
        msgspec.to_builtins(view) | ({} if address is None else {"address": address})
        for view, address in zip(views, addresses, strict=True)
    ]
    return "".join(msgspec.json.encode(each).decode() + "\n" for each in objects)


def _csv_text(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
