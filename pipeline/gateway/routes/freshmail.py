"""`POST /v3/messaging/emails`: FreshMail's request in, all of its emails on the log or none promised out."""

import asyncio
import functools
import math
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import Tenant
from pipeline.dialects import freshmail, freshmail_render
from pipeline.dialects.freshmail import (
    DIALECT,
    FreshMailRequest,
    FreshMailResult,
    InvalidFreshMailRequest,
)
from pipeline.dialects.freshmail_render import FreshMailSendCommand
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.idempotency_key import IDEMPOTENCY_KEY_HEADER, MessageIds, message_ids
from pipeline.gateway.intake import AcceptedMessage, MessageIntake
from pipeline.gateway.request_body import read_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.crashpoints import crash_point
from projections.templates import get_template
from topics.record import EmailId
from topics.requests import DEFAULT_BRAND, Mailbox, SendRequest
from topics.templates import Template

OPENAPI_TYPES: Final = (FreshMailRequest, FreshMailResult)
IDEMPOTENCY_KEY_REUSED: Final = "This Idempotency-Key was used before for other recipients."
UNCONFIRMED: Final = (
    "A part of Mailfold does not answer. Send the request again; with the same Idempotency-Key, nobody is written to "
    "twice."
)
EXAMPLE: Final[dict[str, Any]] = {
    "recipients": [
        {
            "email": "recipient@example.com",
            "name": "Example Recipient",
            "personalization": {"key1": "value1", "key2": "value2"},
            "headers": {"x-custom-header-1": "Custom message header"},
        }
    ],
    "from": {"name": "John Sender", "email": "sender@example.com"},
    "subject": "Message subject",
    "contents": [
        {"type": "text/html", "body": "<p>sample HTML</p>"},
        {"type": "text/plain", "body": "same text"},
    ],
    "headers": {"x-custom-header-1": "Custom message header", "x-custom-header-2": "Custom message header"},
}


def encode_error(_status: int, error: str, where: str) -> bytes:
    """An error as FreshMail's clients expect it."""
    return freshmail.encode_error([f"{error} ({where})" if where else error])


def _errors(description: str) -> dict[str, Any]:
    either = {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "object"}]}
    schema = {"type": "object", "required": ["errors"], "properties": {"errors": either}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    201: {
        "description": "Registered: each recipient's id, in order.",
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/FreshMailResult"}},
                "example": [{"email": "recipient@example.com", "id": "b39ef689-4177-4a0e-b5c3-f894900adbae"}],
            }
        },
    },
    400: _errors("Not taken: a list where no field is meant, else an object by path (`Recipients[1].email`)."),
    401: _errors("No API key, or one that is unknown or revoked."),
    409: _errors("The Idempotency-Key was used before for other recipients."),
    413: _errors("Over MAILFOLD_BODY_MAX bytes, zipped or unzipped."),
    415: _errors("A content encoding other than gzip."),
    429: _errors("Over the rate agreed upon; Retry-After says when."),
    503: _errors("Not confirmed in time; repeat it with the same Idempotency-Key."),
}
_ROUTE_OPENAPI: Final[dict[str, Any]] = {
    "status_code": 201,
    "responses": _RESPONSES,
    "openapi_extra": {
        "security": [{"ApiKey": []}],
        "parameters": [
            {
                "name": IDEMPOTENCY_KEY_HEADER,
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
                "description": "Makes a repeat harmless: the same key, the same emails.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/FreshMailRequest"}, "example": EXAMPLE}
            },
        },
    },
}


def router(world: GatewayState) -> APIRouter:
    """FreshMail's surface, with and without the trailing slash: its document has both."""
    routes = APIRouter(tags=["FreshMail"])
    surface = FreshMailApi(world)

    @routes.post("/v3/messaging/emails", summary="Register emails", **_ROUTE_OPENAPI)
    @routes.post("/v3/messaging/emails/", include_in_schema=False)
    async def emails(request: Request, tenant: Annotated[Tenant, Depends(world.authenticate)]) -> Response:
        """One message to 1–100 recipients, each with an email of its own; all of them or, validated first, none."""
        body = await read_body(request, world.runtime.settings.body_max)
        try:
            post = await asyncio.to_thread(freshmail.parse_request, body)
            return await surface.answer(request, tenant, post)
        except InvalidFreshMailRequest as invalid:
            return _answer(400, freshmail.encode_error(invalid.errors))

    return routes


class FreshMailApi:
    """Takes requests that can be read."""

    def __init__(self, world: GatewayState) -> None:
        self._rt = world.runtime
        self._limits = world.limits
        self._metrics = world.metrics
        self._intake = MessageIntake(world.runtime, world.log)

    async def answer(self, request: Request, tenant: Tenant, post: FreshMailRequest) -> Response:
        """Validate all, reserve the list, append all. Raises Invalid."""
        template = await self._template(tenant.tenant, post)
        render = functools.partial(freshmail_render.render_commands, post, template, self._rt.clock())
        async with self._limits.content_budget.render_and_hold(
            render, freshmail_render.contents_bytes, self._rt.settings.append_timeout
        ) as wishes:
            return await self._take(request, tenant, post, wishes)

    async def _take(
        self, request: Request, tenant: Tenant, post: FreshMailRequest, wishes: list[FreshMailSendCommand]
    ) -> Response:
        ids = message_ids(request, tenant.tenant, DIALECT, len(wishes), self._rt.new_id)
        if wait := self._limits.grant_all(tenant, len(wishes)):
            return _later(429, "Over the rate agreed upon; send it again later.", {"Retry-After": str(math.ceil(wait))})
        if ids.identity and not await self._intake.reserve_recipients(
            ids.message_id, [wish.recipient for wish in wishes]
        ):
            return _answer(409, freshmail.encode_error([IDEMPOTENCY_KEY_REUSED]))
        outcome = await self._intake.take(self._parcels(tenant.tenant, post, wishes, ids))
        crash_point("gateway.before-answer")
        taken = len(outcome.taken)
        self._metrics.count_messages(len(wishes), taken, len(outcome.refused))
        if outcome.refused:
            return _answer(409, freshmail.encode_error(sorted(set(outcome.refused.values()))))
        if taken < len(wishes):
            return _later(503, UNCONFIRMED, RETRY_SOON)
        pairs = zip(wishes, ids.email_ids, strict=True)
        return _answer(
            201, freshmail.encode_response(FreshMailResult(wish.recipient, email_id) for wish, email_id in pairs)
        )

    async def _template(self, tenant: str, post: FreshMailRequest) -> Template | None:
        if post.template_hash is None:
            return None
        async with self._rt.pool.connection() as connection:
            return await get_template(connection, tenant, post.template_hash)

    def _parcels(
        self, tenant: str, post: FreshMailRequest, wishes: list[FreshMailSendCommand], ids: MessageIds
    ) -> dict[EmailId, AcceptedMessage]:
        whole = SendRequest(
            email_id=ids.email_ids[0],
            message_id=ids.message_id,
            tenant=tenant,
            dialect=DIALECT,
            brand=DEFAULT_BRAND,
            recipient="",
            recorded_at=self._rt.clock(),
            identity=ids.identity,
            sender=Mailbox(address=post.sender.email, name=post.sender.name),
            reply_to=(post.reply_to.email,) if post.reply_to else (),
        )
        return {
            email_id: AcceptedMessage(_request(whole, wish, email_id), wish.content)
            for wish, email_id in zip(wishes, ids.email_ids, strict=True)
        }


def _request(whole: SendRequest, wish: FreshMailSendCommand, email_id: EmailId) -> SendRequest:
    return msgspec.structs.replace(
        whole,
        email_id=email_id,
        recipient=wish.recipient,
        recipient_name=wish.name,
        subject=wish.subject,
        template=wish.template,
        variables=wish.variables,
    )


def _answer(status: int, body: bytes) -> Response:
    return Response(body, status, media_type="application/json")


def _later(status: int, error: str, headers: dict[str, str]) -> Response:
    return Response(freshmail.encode_error([error]), status, headers, "application/json")
