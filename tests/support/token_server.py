"""An OAuth server for tests: it gives the one client that it knows tokens that a Kafka broker in a test accepts."""

import base64
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web
from pydantic import SecretStr

from tests.support.http_server import http_server

CLIENT_ID: Final = "mailfold"
CLIENT_SECRET: Final = "a secret: of 100 % + & ü"
_LOGIN: Final = "Basic " + base64.b64encode(b"mailfold:a+secret%3A+of+100+%25+%2B+%26+%C3%BC").decode()


class TokenServer:
    """A server at ``url``, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.forms: list[dict[str, str]] = []
        self.lifetime_s: float = 3600
        self.is_away = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.is_away:
            return web.Response(status=503)
        self.forms.append({name: str(value) for name, value in (await request.post()).items()})
        if request.headers.get("Authorization") != _LOGIN:
            return web.json_response({"error": "invalid_client"}, status=401)
        token = unsigned_token("tester", self.lifetime_s)
        return web.json_response({"access_token": token, "expires_in": self.lifetime_s, "token_type": "Bearer"})

    def settings(self, **changed: Any) -> dict[str, Any]:
        """Return the settings of the client that the server knows."""
        return {
            "kafka_sasl_mechanism": "OAUTHBEARER",
            "kafka_oauth_token_url": self.url,
            "kafka_oauth_client_id": CLIENT_ID,
            "kafka_oauth_client_secret": SecretStr(CLIENT_SECRET),
            **changed,
        }


@contextlib.asynccontextmanager
async def token_server() -> AsyncIterator[TokenServer]:
    """Serve tokens on a free port until the end of the block."""
    server = TokenServer()
    async with http_server(server.answer) as port:
        server.url = f"http://127.0.0.1:{port}/token"
        yield server


def unsigned_token(user: str, lifetime_s: float) -> str:
    """Return a JWT without a signature, which a broker accepts that has no other validator."""
    now = time.time()
    parts = ('{"alg":"none"}', f'{{"sub":"{user}","iat":{now},"exp":{now + lifetime_s}}}', "")
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
