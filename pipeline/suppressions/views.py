"""What is known of addresses in, what people and programs are shown of it out: hashes, reasons, events, never more.

An address itself is shown in an export alone, and only to who asks for it.
"""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pipeline.suppressions.queries import Asking
from projections.suppressing import Why
from projections.suppressions import AT_ONCE, Asked, Known
from topics.record import EmailId, Millis
from topics.suppressions import Reason

Form = Literal["csv", "jsonl"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An address that gets nothing from a brand."""

    address_hash: Annotated[str, Meta(description="Keyed hash of the address; names it wherever an address does")]
    brand: Annotated[str, Meta(description="`*`: all of the tenant's")]
    reason: Reason
    since: Annotated[Millis, Meta(description="Milliseconds since 1970, UTC; our clock")]
    listed: Annotated[bool, Meta(description="Somebody decided it; else it follows from what an email told")]
    email_id: Annotated[EmailId | None, Meta(description="The email that told it")] = None
    event_id: Annotated[str, Meta(description="The event of that email, as in `mailfold trace`")] = ""
    by: Annotated[str, Meta(description="Who decided it")] = ""
    note: str = ""


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """What one email told of the address, whether it still counts or not."""

    brand: str
    reason: Reason
    at: Millis
    email_id: EmailId
    event_id: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The latest decision for a brand, or for all."""

    brand: str
    listed: Annotated[bool, Meta(description="False: lifted; what was known before counts no more")]
    at: Millis
    by: str
    reason: Reason | None = None
    note: str = ""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of one address."""

    address_hash: str
    suppressed: Annotated[list[Entry], Meta(description="Empty: it gets mail")]
    evidence: list[Sign]
    decisions: list[Choice]


HEADING: Final = tuple(Entry.__struct_fields__)


def entry(address_hash: bytes, why: Why) -> Entry:
    """A verdict as it is shown."""
    return Entry(
        address_hash=address_hash.hex(),
        brand=why.brand,
        reason=why.reason,
        since=why.since,
        listed=why.listed,
        email_id=why.email_id,
        event_id=why.event_id,
        by=why.by,
        note=why.note,
    )


def account(address_hash: bytes, known: Iterable[Known]) -> Account:
    """All of one address; what was decided for all brands once."""
    suppressed: dict[str, Entry] = {}
    decisions: dict[str, Choice] = {}
    evidence: list[Sign] = []
    for one in known:
        if one.why is not None:
            suppressed[one.why.brand] = entry(address_hash, one.why)
        for each in one.decisions:
            decisions[each.brand] = Choice(
                brand=each.brand,
                listed=each.reason is not None,
                at=each.at,
                by=each.by,
                reason=each.reason,
                note=each.note,
            )
        evidence += [
            Sign(brand=one.key[1], reason=each.reason, at=each.at, email_id=each.email_id, event_id=each.event_id)
            for each in one.evidence
        ]
    evidence.sort(key=lambda sign: (sign.at, sign.email_id))
    by_brand = sorted(decisions.values(), key=lambda choice: choice.brand)
    return Account(
        address_hash=address_hash.hex(), suppressed=list(suppressed.values()), evidence=evidence, decisions=by_brand
    )


async def export(asking: Asking, asked: Asked, form: Form, *, addresses: bool) -> AsyncIterator[str]:
    """All that is asked for, some hundred lines at once."""
    if form == "csv":
        yield _csv([(*HEADING, "address") if addresses else HEADING])
    while True:
        page = await asking.page(msgspec.structs.replace(asked, limit=AT_ONCE))
        entries = [entry(key[2], why) for key, why in page.entries]
        known = await asking.addresses(asked.tenant, [key[2] for key, _ in page.entries]) if addresses else {}
        told = [known.get(key[2], "") if addresses else None for key, _ in page.entries]
        if entries:
            yield _text(entries, told, form)
        if page.behind is None:
            return
        asked = msgspec.structs.replace(asked, behind=page.behind)


def _text(entries: Sequence[Entry], addresses: Sequence[str | None], form: Form) -> str:
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
