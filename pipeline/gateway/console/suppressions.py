"""The page of suppressions: find an address, and say why it gets no mail; add and lift suppressions."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import ApiKey, KeyScope
from pipeline.errors import Refused
from pipeline.gateway.auth import require_brand
from pipeline.gateway.console.forms import ConsoleForm, read_form
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.suppressions import cursor, views
from pipeline.suppressions.commands import (
    SuppressionCommand,
    SuppressionCommandHandler,
    address_hashes,
    check_command,
    suppress_change,
)
from pipeline.suppressions.queries import AddressHashes, SuppressionLookup, SuppressionQueries
from projections.suppressions import SuppressionListQuery
from projections.text import storable_text
from topics.suppressions import SuppressionReason

PATH: Final = "/console/suppressions"
PAGE_ENTRIES: Final = 50
REASONS: Final = tuple(reason.value for reason in SuppressionReason)


def add_routes(routes: APIRouter, services: ConsoleServices) -> None:
    """Add the routes of suppressions."""
    queries = SuppressionQueries(services.state.runtime)
    _add_reading_routes(routes, services, queries)
    _add_changing_routes(routes, services, queries)


def _add_reading_routes(routes: APIRouter, services: ConsoleServices, queries: SuppressionQueries) -> None:
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type
    signer = Signer(secret_ring(services.state.runtime.settings), "cursor")

    @routes.get(PATH)
    async def list_suppressions(request: Request, viewer: Caller) -> Response:
        """List suppressed addresses by their hashes."""
        values = request.query_params
        query = SuppressionListQuery(
            tenant=viewer.tenant,
            brand=_stored_brand(viewer.key, values.get("brand", "")),
            reason=_reason(values),
            limit=PAGE_ENTRIES,
        )
        if following := values.get("next", ""):
            query = cursor.decode_cursor(signer.verify, following, query)
        page = await queries.page(query)
        entries = [views.suppression_view(place[2], suppression) for place, suppression in page.entries]
        next_cursor = "" if page.next_position is None else cursor.encode_cursor(signer.tag, query, page.next_position)
        shown = {"entries": entries, "next_cursor": next_cursor, "reason": values.get("reason", "")}
        return _page(services, viewer, **shown, brand=values.get("brand", ""))

    @routes.post("/console/suppressions/find")
    async def find_address(request: Request, viewer: Caller) -> Response:
        """Show all that is known of one address, which comes in the form's body and in no URL."""
        form = await read_form(request)
        hashes = _hashes(queries, form)
        return await _address_page(services, queries, viewer, hashes)


def _add_changing_routes(routes: APIRouter, services: ConsoleServices, queries: SuppressionQueries) -> None:
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type
    handler = SuppressionCommandHandler(services.state.runtime, services.state.log)

    @routes.post("/console/suppressions/add")
    async def suppress(request: Request, viewer: Caller) -> Response:
        """Suppress an address, and show it."""
        form = await read_form(request)
        hashes, note = _hashes(queries, form), form.reason()
        reason = SuppressionReason(form.get("kind")) if form.get("kind") in REASONS else SuppressionReason.MANUAL
        command = _command(viewer, form.get("brand"), reason, note)
        check_command(command)  # before it is recorded
        async with services.actions_of(viewer).recorded(suppress_change(command, hashes.hash)):
            is_new, in_force = await handler.suppress(command, hashes.hash)
        done = "The address is suppressed." if is_new else "The address was suppressed so already."
        return await _address_page(services, queries, viewer, hashes, _done(done, in_force=in_force))

    @routes.post("/console/suppressions/lift")
    async def lift(request: Request, viewer: Caller) -> Response:
        """Lift a suppression, and show the address."""
        form = await read_form(request)
        hashes, note = _hashes(queries, form), form.reason()
        command = _command(viewer, form.get("brand"), None, note)
        async with services.actions_of(viewer).recorded(await handler.lift_change(command, hashes, note)):
            in_force = await handler.lift(command, hashes)
        done = "The suppression is lifted: the address gets mail until it bounces, complains or unsubscribes again."
        return await _address_page(services, queries, viewer, hashes, _done(done, in_force=in_force))


async def _address_page(
    services: ConsoleServices, queries: SuppressionQueries, viewer: Viewer, hashes: AddressHashes, done: str = ""
) -> Response:
    """Return the page about one address; a key for one brand sees that brand's suppression alone."""
    if viewer.key.limits.brand:
        key = (viewer.tenant, storable_text(viewer.key.limits.brand), hashes.hash)
        assessments = await queries.look_up([SuppressionLookup(key, hashes.old)])
    else:
        assessments = await queries.of_address(viewer.tenant, hashes)
    view = views.address_view(hashes.hash, assessments)
    return services.pages.page("suppressed_address.html", viewer, path=PATH, view=view, done=done, **_choices(viewer))


def _page(services: ConsoleServices, viewer: Viewer, **values: Any) -> Response:
    return services.pages.page("suppressions.html", viewer, path=PATH, **values, **_choices(viewer))


def _choices(viewer: Viewer) -> dict[str, Any]:
    """Return what the forms offer."""
    return {
        "reasons": REASONS,
        "changes": viewer.can(KeyScope.SUPPRESSIONS_WRITE),
        "reads_history": viewer.can(KeyScope.HISTORY_READ),
        "default_brand": viewer.key.limits.brand or "*",
    }


def _hashes(queries: SuppressionQueries, form: ConsoleForm) -> AddressHashes:
    """Return the hashes of the address in a form. Raise Refused."""
    return address_hashes(queries, form.get("address"))


def _command(viewer: Viewer, brand: str, reason: SuppressionReason | None, note: str) -> SuppressionCommand:
    """Return the command of the viewer. Raise HttpProblem 403 for a brand that the key must not be used for."""
    require_brand(viewer.key, brand)
    return SuppressionCommand(tenant=viewer.tenant, brand=brand, by=viewer.actor, reason=reason, note=note)


def _stored_brand(key: ApiKey, brand: str) -> str | None:
    """Return the brand to list, as it is stored; None for all. Raise HttpProblem 403 for one that the key must not."""
    if brand:
        require_brand(key, brand)
    wanted = brand or key.limits.brand
    return storable_text(wanted) if wanted else None


def _reason(values: Mapping[str, str]) -> SuppressionReason | None:
    """Return the reason that the list is limited to. Raise Refused for one that does not exist."""
    reason = values.get("reason", "")
    if reason and reason not in REASONS:
        raise Refused(f"reason {reason[:40]}: it may be {', '.join(REASONS)}")
    return SuppressionReason(reason) if reason else None


def _done(text: str, *, in_force: bool) -> str:
    return text if in_force else f"{text} It is durable, and in force as soon as it is projected."
