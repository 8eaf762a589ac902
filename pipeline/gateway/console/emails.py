"""The page that lists emails, and its search box."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import KeyScope
from pipeline.errors import Refused
from pipeline.gateway.auth import require_scope
from pipeline.gateway.console.forms import read_form
from pipeline.gateway.console.listing import (
    FILTER_NAMES,
    STATUSES,
    ConsoleListing,
    EmailListing,
    email_line,
    listing_path,
    parse_listing,
    read_listing,
    shown_filters,
)
from pipeline.gateway.console.rendering import ConsolePages, see_other
from pipeline.gateway.console.search import EmailSearch, parse_search, search_text
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.gateway.state import GatewayState
from projections import history_queries
from projections.columns import is_storable_id
from topics.record import EmailId

PATH: Final = "/console/emails"
MAX_FOUND_EMAILS: Final = 20
"""Emails that are listed for one id; an activity's id may stand for several recipients."""


def add_routes(routes: APIRouter, services: ConsoleServices) -> None:
    """Add the routes of the list and of the search."""
    state, pages = services.state, services.pages
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type

    @routes.get(PATH)
    async def list_emails(request: Request, viewer: Caller) -> Response:
        """List emails, newest first; the filters are in the URL."""
        values = dict(request.query_params)
        try:
            wanted = parse_listing(viewer.tenant, values, state.runtime.clock())
        except Refused as error:
            return _listing_page(pages, viewer, ConsoleListing(), None, error=str(error), status=400)
        listing = await read_listing(state.history, viewer, wanted)
        return _listing_page(pages, viewer, wanted, listing)

    @routes.post("/console/emails/search")
    async def search(request: Request, viewer: Caller) -> Response:
        """Find emails by what was typed; an address comes in the form's body, and in no URL."""
        form = await read_form(request)
        text = form.get("q")
        try:
            search = parse_search(text, FILTER_NAMES)
            if search.identifier:
                return await _found_by_id(state, pages, viewer, search.identifier, text)
            place = {name: form.get(name) for name in ("place", "as_of") if form.get(name)}
            wanted = parse_listing(viewer.tenant, {**search.filters, **place}, state.runtime.clock())
        except Refused as error:
            return _listing_page(pages, viewer, ConsoleListing(), None, query=text, error=str(error), status=400)
        if not search.address:
            return see_other(listing_path(wanted))
        return await _found_by_address(state, pages, viewer, search, wanted)


async def _found_by_address(
    state: GatewayState, pages: ConsolePages, viewer: Viewer, search: EmailSearch, wanted: ConsoleListing
) -> Response:
    """List the emails to one address. Raise HttpProblem 403 for a key that may not see addresses."""
    require_scope(viewer.key, KeyScope.HISTORY_ADDRESSES)
    wanted = msgspec.structs.replace(wanted, address=search.address)
    listing = await read_listing(state.history, viewer, wanted)
    query = f"{search.address} {search_text(search.filters)}".strip()
    return _listing_page(pages, viewer, wanted, listing, query=query)


async def _found_by_id(
    state: GatewayState, pages: ConsolePages, viewer: Viewer, identifier: str, text: str
) -> Response:
    """Lead to the email with this id, or list them if there are several."""
    if "@" in identifier:
        require_scope(viewer.key, KeyScope.HISTORY_ADDRESSES)  # a message id may be an address, and is looked up as one
    if is_storable_id(identifier.lower()):
        return see_other(f"{PATH}/{identifier.lower()}")

    async def find(connection: history_queries.Connection) -> list[Any]:
        ids = await history_queries.find_emails_by_any_id(connection, identifier, viewer.tenant, MAX_FOUND_EMAILS)
        histories = [await history_queries.find_email_history(connection, EmailId(email_id)) for email_id in ids]
        return [history for history in histories if history is not None]

    histories = [
        history
        for history in await state.history.read(find, as_of=None)
        if history.state.request is not None and viewer.key.may_use_brand(history.state.request.brand)
    ]
    if len(histories) == 1:
        return see_other(f"{PATH}/{histories[0].state.email_id}")
    lines = [email_line(history.state, masks_addresses=viewer.masks_addresses) for history in histories]
    listing = EmailListing(lines, state.runtime.clock(), "")
    return _listing_page(pages, viewer, ConsoleListing(), listing, query=text)


def _listing_page(
    pages: ConsolePages,
    viewer: Viewer,
    wanted: ConsoleListing,
    listing: EmailListing | None,
    *,
    query: str = "",
    error: str = "",
    status: int = 200,
) -> Response:
    """Return the page of a list; without a list, the page that says what is wrong with the search."""
    following = ""
    if listing is not None and listing.next_place:
        following = listing_path(
            msgspec.structs.replace(wanted, as_of=listing.as_of, place=listing.next_place, address="")
        )
    choices = [("", "All", _with_status(wanted, ""))]
    choices += [(word, word.capitalize(), _with_status(wanted, word)) for word in STATUSES]
    return pages.page(
        "emails.html",
        viewer,
        path=PATH,
        status=status,
        wanted=wanted,
        listing=listing,
        query=query or search_text(shown_filters(wanted)),
        error=error,
        following=following,
        choices=choices,
        filter_names=FILTER_NAMES,
        is_now=wanted.as_of is None,
        now_path=listing_path(msgspec.structs.replace(wanted, as_of=None, place="", address="")),
    )


def _with_status(wanted: ConsoleListing, status: str) -> str:
    """Return the path of the same list with another status."""
    filters = {name: value for name, value in wanted.filters.items() if name != "status"}
    if status:
        filters["status"] = status
    return listing_path(ConsoleListing(filters=filters, as_of=wanted.as_of))
