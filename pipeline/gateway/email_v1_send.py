"""`POST /v1/Email/`: messages in, each with its result; what was taken is on the log."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import Tenant
from pipeline.crashpoints import crash_point
from pipeline.dialects import email_v1_send as dialect
from pipeline.dialects.email_v1_send import DIALECT, Answer, Result, Said, Wish
from pipeline.errors import DatabaseUnavailable, Refused
from pipeline.gateway.bodies import read_body
from pipeline.gateway.intake import Intake, Outcome, Parcel
from pipeline.gateway.repeats import HEADER, Message, message
from pipeline.gateway.world import World
from projections.templates import get_template
from topics.record import EmailId
from topics.requests import SendRequest
from topics.templates import Template

TYPES: Final = (dialect.Message, Answer)
OVER_MAX: Final = "over the batch maximum; send it again in another request"
OVER_RATE: Final = "over the rate agreed upon; send it again later"
UNCONFIRMED: Final = "not confirmed in time; send it again"
NOTHING: Final = "nothing could be taken: a part of Mailfold does not answer; send it again"

_ERROR: Final = {
    "application/json": {
        "schema": {"type": "object", "required": ["Error"], "properties": {"Error": {"type": "string"}}}
    }
}
_RESULTS: Final = {"schema": {"$ref": "#/components/schemas/EmailV1Answer"}}
EXAMPLE: Final[dict[str, Any]] = {
    "Messages": [
        {
            "To": "example@example.com",
            "Type": "token",
            "BrandId": "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02",
            "Token": "abcde",
            "NumPhotos": 10,
        }
    ]
}
_DESCRIBED: Final[dict[str, Any]] = {
    "responses": {
        200: {
            "description": "What became of each message, in their order.",
            "content": {
                "application/json": {
                    **_RESULTS,
                    "example": {"Results": [{"Status": 200, "MessageId": "0e5a0f0c-9f5b-5c0e-8d1a-3a52b1e1a001"}]},
                }
            },
        },
        400: {"description": "Not a request: `Error` says what and where.", "content": _ERROR},
        401: {"description": "No API key, or one that is unknown or revoked.", "content": _ERROR},
        413: {"description": "Over MAILFOLD_BODY_MAX bytes, zipped or unzipped.", "content": _ERROR},
        415: {"description": "A content encoding other than gzip.", "content": _ERROR},
        503: {"description": "Nothing could be taken; the same may safely be sent again.", "content": _ERROR},
    },
    "openapi_extra": {
        "security": [{"ApiKey": []}],
        "parameters": [
            {
                "name": HEADER,
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
                "description": "Makes a repeat harmless: the same key and place in Messages, the same email.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["Messages"],
                        "properties": {
                            "Messages": {"type": "array", "items": {"$ref": "#/components/schemas/EmailV1Message"}}
                        },
                    },
                    "example": EXAMPLE,
                }
            },
        },
    },
}


def add(routes: APIRouter, world: World) -> None:
    """The route."""
    surface = Surface(world)

    @routes.post("/v1/Email/", summary="Send emails", **_DESCRIBED)
    @routes.post("/v1/Email", include_in_schema=False)
    async def send(request: Request, tenant: Annotated[Tenant, Depends(world.authenticate)]) -> Response:
        """Each message is taken, or has an `Error` and the `Status` that says whether to try again."""
        body = await read_body(request, world.rt.settings.body_max)
        return await surface.answer(request, tenant, body)


class Surface:
    """Takes messages."""

    def __init__(self, world: World) -> None:
        self._rt = world.rt
        self._limits = world.limits
        self._counted = world.metrics.messages
        self._intake = Intake(world.rt, world.log)

    async def answer(self, request: Request, tenant: Tenant, body: bytes) -> Response:
        """A request's answer. Raises Refused for a body that is none."""
        count, wishes, results = await asyncio.to_thread(dialect.read, body)
        ids = message(request, tenant.tenant, DIALECT, count, self._rt.new_id)
        wishes = self._limit(tenant, wishes, results)
        try:
            outcome = await self._take(tenant.tenant, wishes, ids, results)
        except DatabaseUnavailable:
            outcome = Outcome(set(), {})
        for wish in wishes:
            results.setdefault(wish.index, _result(wish, ids.email_ids[wish.index], outcome))
        self._count(results.values())
        crash_point("gateway.before-answer")
        lost = [result for result in results.values() if result.status == 503]
        if lost and not outcome.taken:
            return _respond(503, dialect.answer(count, results, NOTHING), {"Retry-After": "2"})
        return _respond(200, dialect.answer(count, results))

    def _limit(self, tenant: Tenant, wishes: list[Wish], results: dict[int, Result]) -> list[Wish]:
        most, taken = self._limits.some(tenant, len(wishes))
        for nth, wish in enumerate(wishes[taken:], taken):
            results[wish.index] = dialect.fault(wish.index, 429, OVER_RATE if nth < most else OVER_MAX)
        return wishes[:taken]

    async def _take(self, tenant: str, wishes: list[Wish], ids: Message, results: dict[int, Result]) -> Outcome:
        """Say what the templates say, and take it in; a result for what can't be said."""
        templates = await self._templates(tenant, {wish.template for wish in wishes})
        said = await asyncio.to_thread(_say, wishes, templates, self._rt.clock(), results)
        now = self._rt.clock()
        return await self._intake.take(
            {
                ids.email_ids[wish.index]: Parcel(_request(tenant, wish, words, ids, now), words.content)
                for wish, words in said
            }
        )

    async def _templates(self, tenant: str, names: Iterable[str]) -> dict[str, Template]:
        async with self._rt.pool.connection() as connection:
            found = {name: await get_template(connection, tenant, name) for name in sorted(names)}
        return {name: template for name, template in found.items() if template is not None}

    def _count(self, results: Iterable[Result]) -> None:
        for result in results:
            again = result.status in (429, 503)
            self._counted.labels("successful" if not result.error else "fatal" if again else "failed").inc()


def _say(
    wishes: list[Wish], templates: Mapping[str, Template], now: int, results: dict[int, Result]
) -> list[tuple[Wish, Said]]:
    said = []
    for wish in wishes:
        template = templates.get(wish.template)
        try:
            said.append((wish, dialect.say(wish, template, now)))
        except Refused as refused:
            status = 404 if template is None else 400
            results[wish.index] = dialect.fault(wish.index, status, str(refused), f" {refused.where}".rstrip())
    return said


def _request(tenant: str, wish: Wish, said: Said, ids: Message, now: int) -> SendRequest:
    email_id = ids.email_ids[wish.index]
    return SendRequest(
        email_id=email_id,
        message_id=email_id,
        tenant=tenant,
        dialect=DIALECT,
        brand=wish.brand,
        recipient=wish.recipient,
        recorded_at=now,
        identity=ids.identity,
        subject=said.subject,
        kind=wish.kind,
        details=dialect.details(wish),
        template=said.ref,
        variables=msgspec.Raw(msgspec.json.encode(dialect.variables(wish))),
    )


def _result(wish: Wish, email_id: EmailId, outcome: Outcome) -> Result:
    if email_id in outcome.taken:
        return Result(status=200, message_id=email_id)
    if email_id in outcome.refused:
        return dialect.fault(wish.index, 409, outcome.refused[email_id])
    return dialect.fault(wish.index, 503, UNCONFIRMED)


def _respond(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, dict(headers or {}), "application/json")
