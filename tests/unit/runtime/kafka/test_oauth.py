"""Tokens by client credentials: shared, renewed in time, bounded, and never in an error."""

import asyncio
import threading

import pytest
from aiohttp import web
from pydantic import SecretStr

from pipeline.runtime.kafka import oauth as kafka_oauth
from pipeline.runtime.kafka.oauth import MAX_RESPONSE_BYTES, OAuthTokenProvider
from pipeline.runtime.kafka.security import TokenUnavailable
from tests.support.http_server import http_server
from tests.support.token_server import CLIENT_ID, CLIENT_SECRET, TokenServer, token_server


class Clock:
    """The provider's clock, which a test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(kafka_oauth, "time", made)
    return made


def provider_of(server: TokenServer, secret: str = CLIENT_SECRET, scope: str = "") -> OAuthTokenProvider:
    return OAuthTokenProvider(server.url, CLIENT_ID, SecretStr(secret), scope)


async def test_token_is_asked_for_once_by_concurrent_clients() -> None:
    async with token_server() as server:
        provider = provider_of(server, scope="kafka mail")
        tokens = await asyncio.gather(*(provider.token() for _ in range(5)))
    assert len(set(tokens)) == 1
    assert server.forms == [{"grant_type": "client_credentials", "scope": "kafka mail"}]


async def test_token_is_renewed_before_it_expires(clock: Clock) -> None:
    async with token_server() as server:
        server.lifetime_s = 100
        provider = provider_of(server)
        first = await provider.token()
        clock.now += 79
        assert await provider.token() == first
        clock.now += 2
        assert await provider.token() != first
    assert len(server.forms) == 2


async def test_old_token_serves_while_the_server_is_away_and_not_after_its_end(clock: Clock) -> None:
    async with token_server() as server:
        server.lifetime_s = 100
        provider = provider_of(server)
        first = await provider.token()
        server.is_away = True
        clock.now += 99
        assert await provider.token() == first
        clock.now += 2
        with pytest.raises(TokenUnavailable, match="KAFKA_OAUTH_TOKEN_URL answered 503"):
            await provider.token()
        server.is_away = False
        assert await provider.token()


async def test_wrong_secret_is_a_sentence_without_the_secret() -> None:
    async with token_server() as server:
        provider = provider_of(server, secret="another-secret")
        with pytest.raises(TokenUnavailable) as caught:
            await provider.token()
    assert "KAFKA_OAUTH_TOKEN_URL answered 401 (invalid_client); check KAFKA_OAUTH_CLIENT_ID" in str(caught.value)
    assert "another-secret" not in str(caught.value) + repr(provider) + repr(vars(provider))


async def test_unreachable_server_is_a_sentence() -> None:
    provider = OAuthTokenProvider("http://127.0.0.1:1/token", CLIENT_ID, SecretStr(CLIENT_SECRET), "")
    with pytest.raises(TokenUnavailable, match="KAFKA_OAUTH_TOKEN_URL: ClientConnectorError"):
        await provider.token()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "without an access_token"),
        (b'{"expires_in": 5}', "without an access_token"),
        (b'{"access_token": 5}', "without an access_token"),
        (b"\xff", "without an access_token"),
        (b'{"access_token": "a\\u0001auth=Bearer b"}', "no bearer token"),
        (b'{"access_token": ""}', "no bearer token"),
        (b'{"access_token": "' + b"a" * MAX_RESPONSE_BYTES + b'"}', "more than 65536 bytes"),
        (b"[" * 20_000, "without an access_token"),
    ],
)
async def test_useless_response_is_a_sentence_that_does_not_repeat_it(body: bytes, problem: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with http_server(answer) as port:
        provider = OAuthTokenProvider(f"http://127.0.0.1:{port}/", CLIENT_ID, SecretStr("s"), "")
        with pytest.raises(TokenUnavailable) as caught:
            await provider.token()
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 120


async def test_redirect_is_not_followed() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})

    async with http_server(answer) as port:
        provider = OAuthTokenProvider(f"http://127.0.0.1:{port}/", CLIENT_ID, SecretStr("s"), "")
        with pytest.raises(TokenUnavailable, match="answered 302"):
            await provider.token()


async def test_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_oauth, "FETCH_TIMEOUT_S", 0.05)
    released = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with http_server(answer) as port:
        provider = OAuthTokenProvider(f"http://127.0.0.1:{port}/", CLIENT_ID, SecretStr("s"), "")
        with pytest.raises(TokenUnavailable, match=r"no answer within 0\.05 s"):
            await provider.token()
        released.set()


async def test_another_thread_with_its_own_loop_uses_the_same_token() -> None:
    """Faust's consumer runs in such a thread."""
    async with token_server() as server:
        provider = provider_of(server)
        tokens = [await provider.token()]
        thread = threading.Thread(target=lambda: tokens.append(asyncio.run(provider.token())))
        thread.start()
        await asyncio.to_thread(thread.join)
    assert len(set(tokens)) == 1
    assert len(server.forms) == 1
