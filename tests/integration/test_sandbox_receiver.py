"""The receiver that plays Fast Track: what it accepts, refuses and stores."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from pipeline.devstack.demo.receiver import ConversionReceiver, ReceivedConversion, serve_receiver

BODY = b'{"activity": {"id":"x",  "n": 1.50}, "email_id": "e1", "delivery_status": "open"}'
GOOD = {"X-API-KEY": "secret", "Idempotency-Key": "e1:open"}


@contextlib.asynccontextmanager
async def posting(receiver: ConversionReceiver) -> AsyncIterator[Any]:
    async with (
        serve_receiver(receiver, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):

        async def post(body: bytes = BODY, path: str = "/brand", **headers: str) -> int:
            async with http.post(f"{path}/email/conversion", data=body, headers={**GOOD, **headers}) as response:
                return response.status

        yield post


async def test_conversion_is_kept_with_its_activity_byte_for_byte() -> None:
    conversions: list[ReceivedConversion] = []
    receiver = ConversionReceiver({"brand": "secret"}, on_conversion=conversions.append)
    async with posting(receiver) as post:
        assert await post() == 200
    assert receiver.arrivals == conversions
    assert receiver.arrivals == [ReceivedConversion(1, "brand", "e1", "open", b'{"id":"x",  "n": 1.50}', "e1:open")]
    assert str(conversions[0]) == '    1  open       e1  {"id":"x",  "n": 1.50}'


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"X-API-KEY": "other"}, 401),
        ({"X-API-KEY": ""}, 401),
        ({"path": "/stranger"}, 404),
        ({"body": b"{"}, 400),
        ({"body": b"[]"}, 400),
        ({"body": b'{"activity": 1, "email_id": "e"}'}, 400),
        ({"body": BODY.replace(b'"open"', b'"opened"')}, 400),
        ({"body": b"\xff"}, 400),
    ],
)
async def test_invalid_request_is_refused_and_counted(changes: dict[str, Any], status: int) -> None:
    receiver = ConversionReceiver({"brand": "secret"})
    async with posting(receiver) as post:
        assert await post(**changes) == status
    assert receiver.arrivals == []
    assert len(receiver.refused) == 1


async def test_postponed_conversion_is_kept_once_it_is_accepted() -> None:
    receiver = ConversionReceiver({"brand": "secret"}, lambda _arrival, attempt: 503 if attempt < 3 else 200)
    async with posting(receiver) as post:
        assert [await post() for _ in range(3)] == [503, 503, 200]
    assert [arrival.number for arrival in receiver.arrivals] == [1]
    assert receiver.postponed_count == 2
