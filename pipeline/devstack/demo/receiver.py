"""A receiver of conversions that stands for Fast Track; used by the demo and by `mailfold receiver`."""

import contextlib
import hmac
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web

from pipeline.errors import InvalidSettings

CONVERSION_WORDS: Final = frozenset({"delivered", "open", "click", "spam", "bounce", "dropped", "failed"})


@dataclass(frozen=True)
class ReceivedConversion:
    """One conversion that was received and accepted."""

    number: int
    brand: str
    """First part of the path to which it was posted: `/{brand}/email/conversion`."""
    email_id: str
    word: str
    activity: bytes = field(repr=False)
    """Bytes of the activity as they were in the body."""
    idempotency_key: str

    def __str__(self) -> str:
        """Return a line for people."""
        activity = self.activity.decode("utf-8", "replace")
        return f"{self.number:>5}  {self.word:<9}  {self.email_id}  {activity[:120]}"


class _ReceivedBody(msgspec.Struct):
    activity: msgspec.Raw
    email_id: str
    delivery_status: str


AnswerPolicy = Callable[[ReceivedConversion, int], int]
"""A function that returns the HTTP status for a valid conversion and its attempt's number; 2xx accepts it."""


def accept_all(_conversion: ReceivedConversion, _attempt: int) -> int:
    """Return 200 for every conversion."""
    return 200


class ConversionReceiver:
    """A handler of ``POST /{brand}/email/conversion`` that wants the brand's X-API-KEY; it keeps what it accepts."""

    def __init__(
        self,
        keys: Mapping[str, str],
        answer: AnswerPolicy = accept_all,
        on_conversion: Callable[[ReceivedConversion], None] = lambda _: None,
    ) -> None:
        self._keys = keys
        self._answer = answer
        self._on_conversion = on_conversion
        self._attempts: dict[str, int] = {}
        self.arrivals: list[ReceivedConversion] = []
        self.refused: list[str] = []
        """Reasons for which requests were refused."""
        self.postponed_count = 0
        """Valid requests that the answer policy did not accept."""

    async def conversion(self, request: web.Request) -> web.Response:
        """Answer a conversion as Fast Track documents it: 200, or 4xx with the reason."""
        brand = request.match_info["brand"]
        key = self._keys.get(brand)
        if key is None:
            return self._refuse(404, "no such brand here")
        if not hmac.compare_digest(key.encode(), request.headers.get("X-API-KEY", "").encode("utf-8", "replace")):
            return self._refuse(401, "X-API-KEY is missing or wrong")
        try:
            body = msgspec.json.decode(await request.read(), type=_ReceivedBody)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self._refuse(400, f"not a conversion: {error}")
        if body.delivery_status not in CONVERSION_WORDS:
            return self._refuse(400, "delivery_status is none of the seven words")
        return self._answer_conversion(brand, body, request.headers.get("Idempotency-Key", ""))

    def _answer_conversion(self, brand: str, body: _ReceivedBody, idempotency_key: str) -> web.Response:
        conversion = ReceivedConversion(
            number=len(self.arrivals) + 1,
            brand=brand,
            email_id=body.email_id,
            word=body.delivery_status,
            activity=bytes(body.activity),
            idempotency_key=idempotency_key,
        )
        attempt = self._attempts[idempotency_key] = self._attempts.get(idempotency_key, 0) + 1
        status = self._answer(conversion, attempt)
        if not 200 <= status < 300:
            self.postponed_count += 1
            return web.json_response({"error": "not now"}, status=status, headers={"Retry-After": "1"})
        self.arrivals.append(conversion)
        self._on_conversion(conversion)
        return web.json_response({"ok": True}, status=status)

    def _refuse(self, status: int, why: str) -> web.Response:
        self.refused.append(why)
        return web.json_response({"error": why}, status=status)


@contextlib.asynccontextmanager
async def serve_receiver(receiver: ConversionReceiver, host: str, port: int) -> AsyncIterator[int]:
    """Run the receiver and yield its port; 0 takes a free one. Raises InvalidSettings for a port that is taken."""
    app = web.Application(client_max_size=4_000_000)
    app.router.add_post("/{brand}/email/conversion", receiver.conversion)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    except OSError as error:
        raise InvalidSettings(f"the receiver can't listen on port {port}: {error.strerror}") from error
    finally:
        await runner.cleanup()
