"""The route class of the console: errors become pages, and whoever is not signed in is led to the sign-in."""

import re
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import quote

import psycopg
from aiokafka.errors import KafkaError
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from pipeline.errors import DatabaseUnavailable, LogUnavailable, NotFound, Refused
from pipeline.gateway.console.rendering import ConsolePages, see_other
from pipeline.gateway.console.sessions import SESSION_COOKIE, SignInRequired, read_cookie
from pipeline.gateway.problems import HttpProblem
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
TITLE_BY_STATUS: Final = {
    400: "That can't be done",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    413: "Too much",
    504: "That takes too long",
    503: "A part of Mailfold does not answer",
}
SIGN_IN_PATH: Final = "/console/sign-in"
_PAGE_PATH: Final = re.compile(r"/console(?:/[A-Za-z0-9_-]+)*(?:\?[!-[\]-~]*)?")
"""A path without dots and escapes, and a query of printable ASCII without blanks and backslashes."""
log = get_logger(__name__)


def route_class(pages: ConsolePages) -> type[APIRoute]:
    """Return the route class whose errors these pages show."""

    class ConsoleRoute(APIRoute):
        """A route of the console."""

        def get_route_handler(self) -> Handler:
            """Return the handler, with errors as pages."""
            handle = super().get_route_handler()

            async def handle_with_pages(request: Request) -> Response:
                try:
                    return await handle(request)
                except SignInRequired:
                    if comes_from_another_site(request):
                        return pages.page("open.html", wanted=path_of(request))
                    return see_other(sign_in_path(request))
                except Exception as error:
                    status, text = problem_of(error)
                    if status == 503:
                        log.warning("page not served", route=self.path, error=type(error).__name__)
                    return error_page(pages, status, text)

            return handle_with_pages

    return ConsoleRoute


def problem_of(error: Exception) -> tuple[int, str]:
    """Return the status and the text of the page about an error. Raise the error where it is a fault of ours."""
    if isinstance(error, HttpProblem):
        return error.status, error.error
    if isinstance(error, NotFound):
        return 404, str(error)
    if isinstance(error, Refused):
        return 400, f"{error.where}: {error}" if error.where else str(error)
    if isinstance(error, RequestValidationError | psycopg.DataError):
        return 400, "A value in the address of this page can't be."
    if isinstance(error, (DatabaseUnavailable, LogUnavailable, KafkaError, *DATABASE_UNAVAILABLE_ERRORS)):
        return 503, "Postgres or Kafka did not answer in time. Nothing is lost; try again in a few seconds."
    raise error


def error_page(pages: ConsolePages, status: int, text: str) -> Response:
    """Return the page about an error."""
    title = TITLE_BY_STATUS.get(status, "That did not work")
    return pages.page("error.html", status=status, title=title, text=text)


def sign_in_path(request: Request) -> str:
    """Return the path of the sign-in that leads back to the requested page; never to an action."""
    if request.method != "GET" or request.url.path == "/console":
        return SIGN_IN_PATH
    return f"{SIGN_IN_PATH}?next={quote(path_of(request), safe='')}"


def path_of(request: Request) -> str:
    """Return the path and the query of a request."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def comes_from_another_site(request: Request) -> bool:
    """Return whether a link on another site's page leads here, with which browsers send no cookie of ours."""
    is_cross_site = request.headers.get("sec-fetch-site") == "cross-site"
    return request.method == "GET" and is_cross_site and not read_cookie(request, SESSION_COOKIE)


def path_after_sign_in(wanted: str) -> str:
    """Return the console's page that ``next`` names; the overview for anything that is not plainly one of its pages.

    Browsers resolve `..`, also where it is escaped, read a backslash as a slash, and drop tabs and line ends: what
    seems to be a page of the console may so become another path, such as `/c/…`, which leads to a sender's page.
    """
    if _PAGE_PATH.fullmatch(wanted) is None or wanted.startswith(SIGN_IN_PATH):
        return "/console"
    return wanted
