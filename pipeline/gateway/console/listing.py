"""List emails for the console: which filters there are, one page of emails, and the line that shows each.

It asks the functions that the history APIs ask.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec

from pipeline.dialects.masking import mask_address
from pipeline.errors import Refused
from pipeline.gateway.auth import require_brand
from pipeline.gateway.console.sessions import Viewer
from pipeline.gateway.history_reader import HistoryReader
from pipeline.webhooks.redaction import redact_all
from projections import history, history_queries
from topics.ids import brand_uuid
from topics.readings import ListedState, email_status, sent_at, updated_at
from topics.record import EmailId, Millis
from topics.states import EmailState

FILTER_NAMES: Final = ("status", "brand")
STATUSES: Final = tuple(state.value for state in ListedState)
_PLACE: Final = re.compile(r"(\d{1,16})\.([0-9a-f-]{36})")
_NUMBER: Final = re.compile(r"\d{1,16}")


@dataclass(frozen=True)
class EmailLine:
    """One email in a list."""

    email_id: str
    status: str
    recipient: str
    subject: str
    brand: str
    sent_at: Millis | None
    updated_at: Millis


@dataclass(frozen=True)
class EmailListing:
    """One page of emails, as they were at one moment."""

    lines: Sequence[EmailLine]
    as_of: Millis
    next_place: str
    """Where the next page begins; empty on the last page."""


class ListingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a list shows: filters by name, an address, the moment, and where the page begins."""

    filters: dict[str, str] = {}
    address: str = ""
    as_of: Millis | None = None
    place: str = ""


def parse_listing(values: Mapping[str, str]) -> ListingRequest:
    """Return the list that the parameters of a URL ask for. Raise Refused."""
    filters = {name: values[name].strip()[:200] for name in FILTER_NAMES if values.get(name, "").strip()}
    if (status := filters.get("status", STATUSES[0])) not in STATUSES:
        raise Refused(f"status {status}: it may be {', '.join(STATUSES)}")
    as_of = values.get("as_of", "")
    if as_of and _NUMBER.fullmatch(as_of) is None:
        raise Refused("as_of is not a number of milliseconds")
    place = values.get("place", "")
    if place and _PLACE.fullmatch(place) is None:
        raise Refused("this is no page of the list; begin at its first page")
    return ListingRequest(filters=filters, as_of=int(as_of) if as_of else None, place=place)


def listing_path(request: ListingRequest) -> str:
    """Return the path of a list, which has no address in it."""
    values: dict[str, str] = dict(request.filters)
    if request.as_of is not None:
        values["as_of"] = str(request.as_of)
    if request.place:
        values["place"] = request.place
    return "/console/emails" + (f"?{urlencode(values)}" if values else "")


async def read_listing(reader: HistoryReader, viewer: Viewer, request: ListingRequest) -> EmailListing:
    """Return one page of emails of the viewer's tenant. Raise HttpProblem 403 for a brand that its key is not for."""

    async def find(connection: history_queries.Connection) -> tuple[Millis, history.HistoryPage]:
        latest = await history_queries.latest_projected_time(connection)
        as_of = latest if request.as_of is None else min(request.as_of, latest)
        query = history.HistoryQuery(
            tenant=viewer.tenant, filter=_filter(viewer, request), as_of=as_of, start_after=_position(request.place)
        )
        return as_of, await history_queries.find_page(connection, query)

    as_of, page = await reader.read(find, as_of=request.as_of)
    place = page.next_position
    return EmailListing(
        [email_line(row.state, masks_addresses=viewer.masks_addresses) for row in page.rows],
        as_of,
        "" if place is None else f"{place.sent_at}.{place.email_id}",
    )


def email_line(state: EmailState, *, masks_addresses: bool) -> EmailLine:
    """Return the line of an email."""
    request = state.request
    recipient = "" if request is None else request.recipient
    subject = "" if request is None else request.subject
    return EmailLine(
        email_id=state.email_id,
        status=email_status(state).value,
        recipient=mask_address(recipient) if masks_addresses and recipient else recipient,
        subject=redact_all(subject) if masks_addresses else subject,
        brand="" if request is None else request.brand,
        sent_at=sent_at(state),
        updated_at=updated_at(state),
    )


def _filter(viewer: Viewer, request: ListingRequest) -> history.HistoryFilter:
    brand = request.filters.get("brand", "") or viewer.key.limits.brand
    if brand:
        require_brand(viewer.key, brand)
    status = request.filters.get("status")
    return history.HistoryFilter(
        brand_uuid=brand_uuid(viewer.tenant, brand) if brand else "",
        listed=ListedState(status) if status else None,
        recipient=request.address,
    )


def _position(place: str) -> history.HistoryPosition | None:
    match = _PLACE.fullmatch(place)
    return None if match is None else history.HistoryPosition(int(match[1]), EmailId(match[2]))
