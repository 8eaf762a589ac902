"""`POST /v1/Email/`: messages in, each with its result; what was taken is on the log."""

import asyncio
import functools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import Tenant
from pipeline.content.budget import content_bytes
from pipeline.content.chunks import check_part_sizes
from pipeline.dialects import email_v1_send as dialect
from pipeline.dialects.email_v1_send import (
    DIALECT,
    EmailV1RenderedMessage,
    EmailV1Result,
    EmailV1SendCommand,
    EmailV1SendResponse,
)
from pipeline.errors import DatabaseUnavailable, LogUnavailable, Refused
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.idempotency_key import IDEMPOTENCY_KEY_HEADER, MessageIds, message_ids
from pipeline.gateway.intake import AcceptedMessage, IntakeResult, MessageIntake
from pipeline.gateway.request_body import read_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.crashpoints import crash_point
from projections.templates import get_template
from topics.contents import MessageContent
from topics.record import EmailId
from topics.requests import SendRequest
from topics.templates import Template

OPENAPI_TYPES: Final = (dialect.EmailV1Message, EmailV1SendResponse)
OVER_MAX: Final = "over the batch maximum; send it again in another request"
OVER_RATE: Final = "over the rate agreed upon; send it again later"
OVER_CONTENTS: Final = "over what is rendered for one request; send it again in another request"
MAX_HELD_CONTENT_BYTES: Final = 16_000_000
"""Bytes of contents in memory at once; a request of more is taken in parts."""
UNCONFIRMED: Final = "not confirmed in time; send it again"
NOTHING_TAKEN: Final = "nothing could be taken: a part of Mailfold does not answer; send it again"

_ERROR: Final = {
    "application/json": {
        "schema": {"type": "object", "required": ["Error"], "properties": {"Error": {"type": "string"}}}
    }
}
_RESULTS_SCHEMA: Final = {"schema": {"$ref": "#/components/schemas/EmailV1SendResponse"}}
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
_ROUTE_OPENAPI: Final[dict[str, Any]] = {
    "responses": {
        200: {
            "description": "What became of each message, in their order.",
            "content": {
                "application/json": {
                    **_RESULTS_SCHEMA,
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
                "name": IDEMPOTENCY_KEY_HEADER,
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


def add_route(routes: APIRouter, world: GatewayState) -> None:
    """The route."""
    surface = EmailV1SendApi(world)

    @routes.post("/v1/Email/", summary="Send emails", **_ROUTE_OPENAPI)
    @routes.post("/v1/Email", include_in_schema=False)
    async def send(request: Request, tenant: Annotated[Tenant, Depends(world.authenticate)]) -> Response:
        """Each message is taken, or has an `Error` and the `Status` that says whether to try again."""
        body = await read_body(request, world.runtime.settings.body_max)
        return await surface.answer(request, tenant, body)


class EmailV1SendApi:
    """Takes messages."""

    def __init__(self, world: GatewayState) -> None:
        self._rt = world.runtime
        self._limits = world.limits
        self._counted = world.metrics.messages
        self._intake = MessageIntake(world.runtime, world.log)

    async def answer(self, request: Request, tenant: Tenant, body: bytes) -> Response:
        """A request's answer. Raises Refused for a body that is none."""
        count, wishes, results = await asyncio.to_thread(dialect.parse_request, body)
        ids = message_ids(request, tenant.tenant, DIALECT, count, self._rt.new_id)
        wishes = self._limit(tenant, wishes, results)
        outcome = await self._take(tenant.tenant, wishes, ids, results)
        for wish in wishes:
            results.setdefault(wish.index, _result(wish, ids.email_ids[wish.index], outcome))
        self._count(results.values())
        crash_point("gateway.before-answer")
        lost = [result for result in results.values() if result.status == 503]
        if lost and not outcome.taken:
            return _respond(503, dialect.encode_response(count, results, NOTHING_TAKEN), RETRY_SOON)
        return _respond(200, dialect.encode_response(count, results))

    def _limit(
        self, tenant: Tenant, wishes: list[EmailV1SendCommand], results: dict[int, EmailV1Result]
    ) -> list[EmailV1SendCommand]:
        most, taken = self._limits.grant_up_to(tenant, len(wishes))
        for nth, wish in enumerate(wishes[taken:], taken):
            results[wish.index] = dialect.item_error(wish.index, 429, OVER_RATE if nth < most else OVER_MAX)
        return wishes[:taken]

    async def _take(
        self, tenant: str, wishes: list[EmailV1SendCommand], ids: MessageIds, results: dict[int, EmailV1Result]
    ) -> IntakeResult:
        """Say what the templates say, and take it in, part by part; a result for what can't be said."""
        outcome = IntakeResult(set(), {})
        try:
            templates = await self._templates(tenant, {wish.template_name for wish in wishes})
            budget = _RenderBudget()
            while wishes:
                say = functools.partial(_say, wishes, templates, self._rt.clock(), results, budget)
                async with self._limits.content_budget.render_and_hold(
                    say, _size, self._rt.settings.append_timeout
                ) as said:
                    part = await self._intake.take(self._parcels(tenant, said, ids))
                outcome.taken |= part.taken
                outcome.refused |= part.refused
                if len(part.taken) + len(part.refused) < len(said):
                    # The log is away: the parts that follow would each wait for it as long.
                    break
                done = {wish.index for wish, _ in said} | results.keys()
                wishes = [wish for wish in wishes if wish.index not in done]
        except (DatabaseUnavailable, LogUnavailable):
            pass
        return outcome

    def _parcels(
        self, tenant: str, said: list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]], ids: MessageIds
    ) -> dict[EmailId, AcceptedMessage]:
        now = self._rt.clock()
        return {
            ids.email_ids[wish.index]: AcceptedMessage(_request(tenant, wish, words, ids, now), words.content)
            for wish, words in said
        }

    async def _templates(self, tenant: str, names: Iterable[str]) -> dict[str, Template]:
        async with self._rt.pool.connection() as connection:
            found = {name: await get_template(connection, tenant, name) for name in sorted(names)}
        return {name: template for name, template in found.items() if template is not None}

    def _count(self, results: Iterable[EmailV1Result]) -> None:
        for result in results:
            again = result.status in (429, 503)
            self._counted.labels("successful" if not result.error else "fatal" if again else "failed").inc()


class _RenderBudget:
    """Bytes that may still be rendered for one request."""

    def __init__(self) -> None:
        self.left = dialect.MAX_RENDERED_BYTES


def _say(
    wishes: list[EmailV1SendCommand],
    templates: Mapping[str, Template],
    now: int,
    results: dict[int, EmailV1Result],
    budget: _RenderBudget | None = None,
) -> list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]]:
    """Return the first wishes' words, as many as memory is granted; contents that are the same are held once.

    Those that can't be said, and those over the request's budget, get a result.
    """
    budget = budget or _RenderBudget()
    said: list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]] = []
    contents: dict[MessageContent, MessageContent] = {}
    room = MAX_HELD_CONTENT_BYTES
    for wish in wishes:
        if budget.left <= 0:
            results[wish.index] = dialect.item_error(wish.index, 429, OVER_CONTENTS)
            continue
        if room <= 0:
            break
        template = templates.get(wish.template_name)
        try:
            words = dialect.render_message(wish, template, now)
            check_part_sizes(words.content)
        except Refused as refused:
            status = 404 if template is None else 400
            results[wish.index] = dialect.item_error(wish.index, status, str(refused), f" {refused.where}".rstrip())
            continue
        budget.left -= content_bytes(words.content)
        if words.content not in contents:
            room -= content_bytes(words.content)
        shared = contents.setdefault(words.content, words.content)
        said.append((wish, msgspec.structs.replace(words, content=shared)))
    return said


def _size(said: list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]]) -> int:
    contents = {id(words.content): words.content for _, words in said}
    return sum(map(content_bytes, contents.values()))


def _request(
    tenant: str, wish: EmailV1SendCommand, said: EmailV1RenderedMessage, ids: MessageIds, now: int
) -> SendRequest:
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
        details=dialect.encode_details(wish),
        template=said.ref,
        variables=msgspec.Raw(msgspec.json.encode(dialect.template_variables(wish))),
    )


def _result(wish: EmailV1SendCommand, email_id: EmailId, outcome: IntakeResult) -> EmailV1Result:
    if email_id in outcome.taken:
        return EmailV1Result(status=200, message_id=email_id)
    if email_id in outcome.refused:
        return dialect.item_error(wish.index, 409, outcome.refused[email_id])
    return dialect.item_error(wish.index, 503, UNCONFIRMED)


def _respond(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, dict(headers or {}), "application/json")
