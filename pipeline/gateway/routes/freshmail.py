"""Serve `POST /v3/messaging/emails`: accept all emails of a FreshMail request, or answer with an error.

The application includes its router.
"""

import asyncio
import functools
import math
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import ApiKey, Tenant
from pipeline.dialects import freshmail, freshmail_render
from pipeline.dialects.freshmail import (
    DIALECT,
    FreshMailRequest,
    FreshMailResult,
    InvalidFreshMailRequest,
)
from pipeline.dialects.freshmail_render import FreshMailSendCommand
from pipeline.gateway.auth import require_brand
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
    """Return an error's JSON body as FreshMail's clients expect it."""
    return freshmail.encode_error([f"{error} ({where})" if where else error])


def _error_response_openapi(description: str) -> dict[str, Any]:
    either = {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "object"}]}
    schema = {"type": "object", "required": ["errors"], "properties": {"errors": either}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    201: {
        "description": "Accepted: each recipient's id, in the request's order.",
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/FreshMailResult"}},
                "example": [{"email": "recipient@example.com", "id": "b39ef689-4177-4a0e-b5c3-f894900adbae"}],
            }
        },
    },
    400: _error_response_openapi(
        "Refused: an object of errors by path (`Recipients[1].email`), or a list if they concern no field."
    ),
    401: _error_response_openapi("No API key, or one that is unknown, revoked or expired."),
    409: _error_response_openapi("The Idempotency-Key was used before for other recipients."),
    413: _error_response_openapi("Over MAILFOLD_BODY_MAX bytes, zipped or unzipped."),
    415: _error_response_openapi("A content encoding other than gzip."),
    429: _error_response_openapi("Over the tenant's rate; Retry-After says when to try again."),
    503: _error_response_openapi("Not confirmed in time; send it again with the same Idempotency-Key."),
}
_ROUTE_OPENAPI: Final[dict[str, Any]] = {
    "status_code": 201,
    "responses": _RESPONSES,
    "openapi_extra": {
        "parameters": [
            {
                "name": IDEMPOTENCY_KEY_HEADER,
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
                "description": "Makes repeated requests safe: the same key, the same emails.",
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


def router(state: GatewayState) -> APIRouter:
    """Return the routes of FreshMail's API; its documentation has the path with and without the trailing slash."""
    routes = APIRouter(tags=["FreshMail"])
    api = FreshMailApi(state)

    @routes.post("/v3/messaging/emails", summary="Register emails", **_ROUTE_OPENAPI)
    @routes.post("/v3/messaging/emails/", include_in_schema=False)
    async def emails(request: Request, key: Annotated[ApiKey, Depends(state.authenticate)]) -> Response:
        """Accept one message to 1–100 recipients, each of whom gets a separate email; refuse all if one is invalid."""
        require_brand(key, DEFAULT_BRAND)
        body = await read_body(request, state.runtime.settings.body_max)
        try:
            message = await asyncio.to_thread(freshmail.parse_request, body)
            return await api.answer(request, key.tenant, message)
        except InvalidFreshMailRequest as invalid:
            return _json_response(400, freshmail.encode_error(invalid.errors))

    return routes


class FreshMailApi:
    """The handler of parsed requests."""

    def __init__(self, state: GatewayState) -> None:
        self._runtime = state.runtime
        self._limits = state.limits
        self._senders = state.senders
        self._metrics = state.metrics
        self._intake = MessageIntake(state.runtime, state.log)

    async def answer(self, request: Request, tenant: Tenant, message: FreshMailRequest) -> Response:
        """Render, reserve and append all emails of a message; return its response. Raises InvalidFreshMailRequest."""
        if problem := (await self._senders.of(tenant)).problem(DEFAULT_BRAND, message.sender.email):
            raise InvalidFreshMailRequest({"From.email": freshmail.sentence(problem)})
        template = await self._find_template(tenant.tenant, message)
        render = functools.partial(freshmail_render.render_commands, message, template, self._runtime.clock())
        async with self._limits.content_memory.render_and_hold(
            render, freshmail_render.contents_bytes, self._runtime.settings.append_timeout
        ) as commands:
            return await self._accept(request, tenant, message, commands)

    async def _accept(
        self, request: Request, tenant: Tenant, message: FreshMailRequest, commands: list[FreshMailSendCommand]
    ) -> Response:
        ids = message_ids(request, tenant.tenant, DIALECT, len(commands), self._runtime.new_id)
        if wait_s := self._limits.grant_all(tenant, len(commands)):
            headers = {"Retry-After": str(math.ceil(wait_s))}
            return _retry_response(429, "Over the rate agreed upon; send it again later.", headers)
        recipients = [command.recipient for command in commands]
        if ids.identity and not await self._intake.reserve_recipients(ids.message_id, recipients):
            return _json_response(409, freshmail.encode_error([IDEMPOTENCY_KEY_REUSED]))
        result = await self._intake.accept(self._messages(tenant.tenant, message, commands, ids))
        crash_point("gateway.before-answer")
        self._metrics.count_messages(len(commands), len(result.accepted), len(result.refused))
        if result.refused:
            return _json_response(409, freshmail.encode_error(sorted(set(result.refused.values()))))
        if len(result.accepted) < len(commands):
            return _retry_response(503, UNCONFIRMED, RETRY_SOON)
        results = [FreshMailResult(to, email_id) for to, email_id in zip(recipients, ids.email_ids, strict=True)]
        return _json_response(201, freshmail.encode_response(results))

    async def _find_template(self, tenant: str, message: FreshMailRequest) -> Template | None:
        """Return the template whose hash the message names, or None if it names none or there is none."""
        if message.template_hash is None:
            return None
        async with self._runtime.pool.connection() as connection:
            return await get_template(connection, tenant, message.template_hash)

    def _messages(
        self, tenant: str, message: FreshMailRequest, commands: list[FreshMailSendCommand], ids: MessageIds
    ) -> dict[EmailId, AcceptedMessage]:
        common = SendRequest(
            email_id=ids.email_ids[0],
            message_id=ids.message_id,
            tenant=tenant,
            dialect=DIALECT,
            brand=DEFAULT_BRAND,
            recipient="",
            recorded_at=self._runtime.clock(),
            identity=ids.identity,
            sender=Mailbox(address=message.sender.email, name=message.sender.name),
            reply_to=(message.reply_to.email,) if message.reply_to else (),
        )
        return {
            email_id: AcceptedMessage(_send_request(common, command, email_id), command.content)
            for command, email_id in zip(commands, ids.email_ids, strict=True)
        }


def _send_request(common: SendRequest, command: FreshMailSendCommand, email_id: EmailId) -> SendRequest:
    """Return the request for one recipient; `common` has what is the same for all recipients of the message."""
    return msgspec.structs.replace(
        common,
        email_id=email_id,
        recipient=command.recipient,
        recipient_name=command.name,
        subject=command.subject,
        template=command.template,
        variables=command.variables,
    )


def _json_response(status: int, body: bytes) -> Response:
    return Response(body, status, media_type="application/json")


def _retry_response(status: int, error: str, headers: dict[str, str]) -> Response:
    return Response(freshmail.encode_error([error]), status, headers, "application/json")
