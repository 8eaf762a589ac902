"""The sign-in and sign-out of the console, and its stylesheet."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.gateway.console.console_route import path_after_sign_in
from pipeline.gateway.console.forms import read_form
from pipeline.gateway.console.rendering import STYLESHEET, STYLESHEET_NAME, ConsolePages, see_other
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import (
    SESSION_COOKIE,
    SIGN_IN_COOKIE,
    SIGN_IN_COOKIE_AGE_S,
    ConsoleSessions,
    Viewer,
    form_token,
    new_cookie,
    read_cookie,
    set_cookie,
)
from pipeline.gateway.problems import HttpProblem
from pipeline.runtime.observing.logs import get_logger

KEY_MAX_CHARS: Final = 500
_UNKNOWN_KEY: Final = "This key is unknown, revoked or expired. Check that you copied all of it."
_NO_COOKIE: Final = (
    "Your browser did not send back the cookie of this form. Allow cookies for this site; and away from this machine "
    "open the console by https, because the cookie is not sent otherwise."
)
log = get_logger(__name__)


def add_routes(routes: APIRouter, services: ConsoleServices) -> None:
    """Add the routes for signing in and out, and for the stylesheet."""
    pages, sessions = services.pages, services.sessions

    @routes.get("/console/sign-in")
    async def show_sign_in(request: Request) -> Response:
        """Show the form that takes an API key."""
        return _sign_in_page(pages, request, path_after_sign_in(request.query_params.get("next", "")))

    @routes.post("/console/sign-in")
    async def sign_in(request: Request) -> Response:
        """Open a session, always with a new cookie, and lead to the page that was asked for."""
        if not read_cookie(request, SIGN_IN_COOKIE):
            return _sign_in_page(pages, request, "/console", 400, _NO_COOKIE)
        form = await read_form(request, SIGN_IN_COOKIE)
        wanted = path_after_sign_in(form.get("next"))
        text = form.get("key")
        opened = await _open_session(sessions, request, text) if text else None
        if isinstance(opened, tuple):
            key, cookie = opened
            log.info("signed in to the console", tenant=key.tenant.tenant, key=key.name)
            response = see_other(wanted)
            set_cookie(request, response, SESSION_COOKIE, cookie)
            set_cookie(request, response, SIGN_IN_COOKIE, "")
            return response
        return _sign_in_page(pages, request, wanted, 401, opened or _UNKNOWN_KEY)

    _add_sign_out_routes(routes, sessions)

    @routes.get("/console/assets/{name}")
    async def stylesheet(name: str) -> Response:
        """Return the stylesheet, whose name changes with its content."""
        if name != STYLESHEET_NAME:
            raise HttpProblem(404, "there is no such file; load the page again")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(STYLESHEET, headers=headers, media_type="text/css; charset=utf-8")


def _add_sign_out_routes(routes: APIRouter, sessions: Any) -> None:
    Caller = Annotated[Viewer, Depends(sessions)]  # noqa: N806 - a type

    @routes.post("/console/sign-out")
    async def sign_out(request: Request, viewer: Caller) -> Response:
        """End the session."""
        await read_form(request)
        await sessions.sign_out(request)
        return _signed_out(request, viewer, "signed out of the console")

    @routes.post("/console/sign-out-everywhere")
    async def sign_out_everywhere(request: Request, viewer: Caller) -> Response:
        """End all sessions of the session's key."""
        await read_form(request)
        await sessions.sign_out_everywhere(viewer)
        return _signed_out(request, viewer, "all sessions of a key signed out of the console")


async def _open_session(sessions: ConsoleSessions, request: Request, text: str) -> Any:
    """Return the key and the cookie of a new session, or why there is none; None for an unknown key."""
    if len(text) > KEY_MAX_CHARS:
        return None
    try:
        return await sessions.sign_in(request, text)
    except HttpProblem as problem:
        if problem.status == 403:
            return f"No session: {problem.error}."
        raise


def _sign_in_page(pages: ConsolePages, request: Request, wanted: str, status: int = 200, error: str = "") -> Response:
    """Return the form, with a cookie that belongs to it."""
    cookie = read_cookie(request, SIGN_IN_COOKIE) or new_cookie()
    response = pages.page("sign_in.html", status=status, error=error, wanted=wanted, form_token=form_token(cookie))
    set_cookie(request, response, SIGN_IN_COOKIE, cookie, SIGN_IN_COOKIE_AGE_S)
    return response


def _signed_out(request: Request, viewer: Viewer, event: str) -> Response:
    log.info(event, tenant=viewer.tenant, key=viewer.key.name)
    response = see_other("/console/sign-in")
    set_cookie(request, response, SESSION_COOKIE, "")
    return response
