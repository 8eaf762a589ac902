"""What went wrong -> an answer in one JSON shape: ``{"error": what, "where": where}``."""

import logging
from collections.abc import Callable, Mapping

import msgspec
import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from pipeline.errors import DatabaseUnavailable, LogUnavailable, Refused
from pipeline.gateway.headers import RETRY_SOON
from pipeline.runtime.database import DATABASE_UNAVAILABLE_ERRORS

log = logging.getLogger(__name__)


class HttpProblem(Exception):
    """A request's end, with status, what and where."""

    def __init__(self, status: int, error: str, where: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.where = where
        self.headers = dict(headers or {})


ErrorEncoder = Callable[[int, str, str], bytes]
"""Status, what and where -> the body's JSON, as a dialect's clients expect it."""


def problem_response(status: int, error: str, where: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """The answer itself."""
    body = msgspec.json.encode({"error": error, "where": where})
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


def unavailable_response(error: str) -> Response:
    """A 503: nothing was taken, or nobody knows; the same request may safely be sent again."""
    return problem_response(503, error, headers=RETRY_SOON)


def install_error_handlers(app: FastAPI, shapes: Mapping[str, ErrorEncoder]) -> None:
    """Every error, the framework's too, leaves in its dialect's shape below the paths given, in ours elsewhere."""
    app.state.shapes = dict(shapes)
    app.add_exception_handler(HttpProblem, _problem)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(psycopg.DataError, _unstorable)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)
    for error in (DatabaseUnavailable, LogUnavailable, *DATABASE_UNAVAILABLE_ERRORS):
        app.add_exception_handler(error, _unavailable)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpProblem)
    return _shaped(request, error.status, error.error, error.where, error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _shaped(request, 400, str(error), error.where)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _shaped(request, 400, str(first["msg"]), ".".join(str(part) for part in first["loc"]))


async def _unstorable(request: Request, _: Exception) -> Response:
    # A NUL in a text, a number beyond the column's: nothing that was ever stored can be meant.
    return _shaped(request, 400, "a value that can't be", f"{request.method} {request.url.path}")


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _shaped(request, error.status_code, str(error.detail), f"{request.method} {request.url.path}", error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("%s %s: %s", request.method, request.scope["route"].path, type(error).__name__)
    return _shaped(request, 503, "a part of Mailfold does not answer; send it again", "", RETRY_SOON)


async def _bug(request: Request, _: Exception) -> Response:
    # Starlette logs the traceback itself; the caller learns nothing of our insides.
    return _shaped(request, 500, "an error of ours, not yours; it is logged", f"{request.method} {request.url.path}")


def _shaped(
    request: Request, status: int, error: str, where: str, headers: Mapping[str, str] | None = None
) -> Response:
    shapes: dict[str, ErrorEncoder] = request.app.state.shapes
    path = request.url.path
    shape = next((shape for prefix, shape in shapes.items() if path == prefix or path.startswith(prefix + "/")), None)
    if shape is None:
        return problem_response(status, error, where, headers)
    return Response(shape(status, error, where), status, headers=dict(headers or {}), media_type="application/json")
