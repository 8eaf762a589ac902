"""All routes of the console; the application includes them where `MAILFOLD_CONSOLE` is on."""

from fastapi import APIRouter, Response

from pipeline.gateway.console import dead_letters, emails, lanes, one_email, overview, sign_in, suppressions
from pipeline.gateway.console.console_route import route_class
from pipeline.gateway.console.reading import ConsoleReader
from pipeline.gateway.console.rendering import ConsolePages, see_other
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import ConsoleSessions
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.state import GatewayState


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/console`."""
    pages = ConsolePages(state.runtime.clock)
    sessions = ConsoleSessions(
        state.runtime.pool, state.authenticate, state.client_info, state.metrics.keys_refused.labels("slowed").inc
    )
    routes = APIRouter(include_in_schema=False, route_class=route_class(pages))
    services = ConsoleServices(state, pages, sessions, ConsoleReader(state.runtime, state.history))
    for section in (sign_in, overview, emails, one_email, dead_letters, lanes, suppressions):
        section.add_routes(routes, services)

    @routes.get("/console/{rest:path}")
    async def no_such_page(rest: str) -> Response:
        """Say that there is no such page; without a name it is the overview."""
        if not rest:
            return see_other("/console")
        raise HttpProblem(404, f"There is no page /console/{rest[:200]}.")

    return routes
