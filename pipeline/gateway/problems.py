"""Turn errors into HTTP responses; ours have one JSON shape: ``{"error": what is wrong, "where": where}``.

The application installs the handlers, and routes raise `HttpProblem` or return these responses themselves.
"""

import http
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from pipeline.errors import DatabaseUnavailable, LogUnavailable, Refused
from pipeline.gateway.headers import RETRY_SOON
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

log = get_logger(__name__)


class HttpProblem(Exception):
    """An error that ends a request: its status, what is wrong, where, and headers for the response."""

    def __init__(self, status: int, error: str, where: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.where = where
        self.headers = dict(headers or {})


ErrorEncoder = Callable[[int, str, str], bytes]
"""A function of status, what is wrong and where, which returns the JSON body that a dialect's clients expect."""


def encode_problem_details(status: int, error: str, where: str) -> bytes:
    """Return the body of a problem as RFC 9457 says: the status tells its type, `where` is an extension."""
    title = http.HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": title, "status": status, "detail": error}
    return msgspec.json.encode(problem | ({"where": where} if where else {}))


def problem_response(status: int, error: str, where: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """Return an error response in our own JSON shape."""
    body = msgspec.json.encode({"error": error, "where": where})
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


def unavailable_response(error: str) -> Response:
    """Return a 503: the request may or may not have been stored, and may safely be sent again."""
    return problem_response(503, error, headers=RETRY_SOON)


def install_error_handlers(app: FastAPI, encoders: Mapping[str, ErrorEncoder]) -> None:
    """Make every error, also the framework's, leave as JSON.

    `encoders` holds path prefixes and the JSON shape that is used below each; elsewhere it is our own.
    """
    app.state.error_encoders = dict(encoders)
    app.add_exception_handler(HttpProblem, _handle_problem)
    app.add_exception_handler(Refused, _handle_refused)
    app.add_exception_handler(RequestValidationError, _handle_invalid_parameter)
    app.add_exception_handler(psycopg.DataError, _handle_data_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(Exception, _handle_unexpected)
    for error in (DatabaseUnavailable, LogUnavailable, *DATABASE_UNAVAILABLE_ERRORS):
        app.add_exception_handler(error, _handle_unavailable)


async def _handle_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpProblem)
    return _error_response(request, error.status, error.error, error.where, error.headers)


async def _handle_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error_response(request, 400, str(error), error.where)


async def _handle_invalid_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _error_response(request, 400, str(first["msg"]), ".".join(str(part) for part in first["loc"]))


async def _handle_data_error(request: Request, _: Exception) -> Response:
    # Postgres can't hold the value, such as a NUL or a number over the column's range, so no stored row can match it.
    return _error_response(request, 400, "a value that can't be", f"{request.method} {request.url.path}")


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    return _error_response(request, error.status_code, str(error.detail), where, error.headers)


async def _handle_unavailable(request: Request, error: Exception) -> Response:
    log.warning(
        "request not served", method=request.method, route=request.scope["route"].path, error=type(error).__name__
    )
    return _error_response(request, 503, "a part of Mailfold does not answer; send it again", "", RETRY_SOON)


async def _handle_unexpected(request: Request, _: Exception) -> Response:
    # Starlette logs the traceback; the response must not reveal any of it.
    where = f"{request.method} {request.url.path}"
    return _error_response(request, 500, "an error of ours, not yours; it is logged", where)


def _error_response(
    request: Request, status: int, error: str, where: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the error in the JSON shape of the request's path."""
    encoders: dict[str, ErrorEncoder] = request.app.state.error_encoders
    path = request.url.path
    encode = next(
        (encode for prefix, encode in encoders.items() if path == prefix or path.startswith(prefix + "/")), None
    )
    if encode is None:
        return problem_response(status, error, where, headers)
    media_type = PROBLEM_MEDIA_TYPE if encode is encode_problem_details else "application/json"
    return Response(encode(status, error, where), status, headers=dict(headers or {}), media_type=media_type)
