"""Serve the console on a port of its own: nothing else there, and the console nowhere else."""

from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.gateway.headers import SECURITY_HEADERS
from pipeline.gateway.problems import problem_response

ROOT: Final = "/console"


class ConsolePort:
    """The ASGI wrapper that answers 404 to what is not served on the port of a request."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, is_console_port = scope["path"], scope["server"][1] == self._port
        is_console_path = path == ROOT or path.startswith(f"{ROOT}/")
        if is_console_path == is_console_port:
            await self._app(scope, receive, send)
        elif is_console_port and path == "/":
            await Response(status_code=303, headers={**SECURITY_HEADERS, "Location": ROOT})(scope, receive, send)
        else:
            where = f"{scope['method']} {path}"
            await problem_response(404, "not served on this port", where, SECURITY_HEADERS)(scope, receive, send)
