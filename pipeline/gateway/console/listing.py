"""List emails for the console: which filters there are, one page of emails, and the line that shows each.

It asks the functions that the history API asks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec

from pipeline.dialects import api_v1_query
from pipeline.dialects.masking import mask_address
from pipeline.errors import Refused
from pipeline.gateway.console.rendering import format_moment
from pipeline.gateway.console.search import parse_moment
from pipeline.gateway.console.sessions import Viewer
from pipeline.gateway.history_reader import HistoryReader
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.routes.emails import email_query
from pipeline.runtime.secrets.signing import canonical_address
from pipeline.webhooks.redaction import redact_all
from projections import email_queries, history_queries
from projections.email_cursor import EmailQuestion
from projections.email_listing import EmailFilter, EmailPage, EmailPosition
from topics.readings import EmailStatus, email_status, updated_at
from topics.record import EmailId, Millis
from topics.states import EmailState

PAGE_EMAILS: Final = 50
STATUSES: Final = tuple(status.value for status in EmailStatus if status is not EmailStatus.UNKNOWN)
API_NAMES: Final = {
    "status": "status",
    "brand": "brand",
    "provider": "provider",
    "domain": "recipient_domain",
    "template": "template",
    "bounce": "bounce_class",
    "code": "bounce_code",
    "opened": "opened_by",
    "suppressed": "suppressed_reason",
    "api": "dialect",
    "after": "accepted_from",
    "before": "accepted_to",
}
"""The filters of the search box, and their names in the history API."""
_MOMENT_NAMES: Final = ("after", "before", "as_of")
FILTER_NAMES: Final = (*API_NAMES, "as_of")
VALUE_MAX_CHARS: Final = 200
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
    accepted_at: Millis | None
    updated_at: Millis


@dataclass(frozen=True)
class EmailListing:
    """One page of emails, as they were at one moment."""

    lines: Sequence[EmailLine]
    as_of: Millis
    next_place: str
    """Where the next page begins; empty on the last page."""


class ConsoleListing(msgspec.Struct, frozen=True, kw_only=True):
    """A list of emails: filters by name, an address, the moment, and where the page begins."""

    filters: dict[str, str] = {}
    address: str = ""
    as_of: Millis | None = None
    place: str = ""


def parse_listing(tenant: str, values: Mapping[str, str], now: Millis) -> ConsoleListing:
    """Return the list that the parameters of a URL ask for. Raise Refused.

    Times that depend on the present, such as `yesterday`, become fixed, so that all pages of a list agree.
    """
    filters: dict[str, str] = {}
    for name in FILTER_NAMES:
        if value := values.get(name, "").strip()[:VALUE_MAX_CHARS]:
            filters[name] = _moment(value, now) if name in _MOMENT_NAMES else value
    place = values.get("place", "")
    if place and _PLACE.fullmatch(place) is None:
        raise Refused("this is no page of the list; begin at its first page")
    as_of = filters.pop("as_of", "")
    listing = ConsoleListing(filters=filters, as_of=int(as_of) if as_of else None, place=place)
    _filter(tenant, listing)  # refuses values that a filter can't have
    return listing


def shown_filters(request: ConsoleListing) -> dict[str, str]:
    """Return the filters as people write them: times as times."""
    shown = {
        name: format_moment(int(value)).replace(" ", "T") if name in _MOMENT_NAMES else value
        for name, value in request.filters.items()
    }
    return shown | ({"as_of": format_moment(request.as_of).replace(" ", "T")} if request.as_of is not None else {})


def listing_path(request: ConsoleListing) -> str:
    """Return the path of a list, which has no address in it."""
    values: dict[str, str] = dict(request.filters)
    if request.as_of is not None:
        values["as_of"] = str(request.as_of)
    if request.place:
        values["place"] = request.place
    return "/console/emails" + (f"?{urlencode(values)}" if values else "")


async def read_listing(
    reader: HistoryReader, viewer: Viewer, request: ConsoleListing, limit: int = PAGE_EMAILS
) -> EmailListing:
    """Return one page of emails of the viewer's tenant. Raise HttpProblem 403 for a brand that its key is not for."""
    question = EmailQuestion(filter=_filter(viewer.tenant, request), limit=limit)
    query = email_query(viewer.key, question, _position(request.place))

    async def find(connection: history_queries.Connection) -> tuple[Millis, EmailPage]:
        latest = await history_queries.latest_projected_time(connection)
        as_of = latest if request.as_of is None else min(request.as_of, latest)
        async with email_queries.limited_time(connection):
            return as_of, await email_queries.find_emails(connection, msgspec.structs.replace(query, as_of=as_of))

    try:
        as_of, page = await reader.read(find, as_of=request.as_of)
    except email_queries.EmailQueryTimeout:
        raise HttpProblem(504, "This question takes too long. Add a filter, or a shorter time.") from None
    place = page.next_position
    return EmailListing(
        [email_line(row.state, masks_addresses=viewer.masks_addresses) for row in page.rows],
        as_of,
        "" if place is None else f"{place.at}.{place.email_id}",
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
        accepted_at=None if request is None else request.recorded_at,
        updated_at=updated_at(state),
    )


def _filter(tenant: str, request: ConsoleListing) -> EmailFilter:
    """Return the filter of a list, read as the history API reads it. Raise Refused."""
    parameters = [(API_NAMES[name], value) for name, value in request.filters.items()]
    if request.address:
        parameters.append(("recipient", request.address))
    return api_v1_query.parse_filter(tenant, parameters, canonical_address)


def _moment(value: str, now: Millis) -> str:
    return value if _NUMBER.fullmatch(value) else str(parse_moment(value, now))


def _position(place: str) -> EmailPosition | None:
    match = _PLACE.fullmatch(place)
    return None if match is None else EmailPosition(int(match[1]), EmailId(match[2]))
