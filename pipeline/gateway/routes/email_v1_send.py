"""Serve `POST /v1/Email/`: render and accept messages, and answer with one result per message.

`email_v1` adds the route to its router.
"""

import asyncio
import functools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import ApiKey, Tenant
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
from pipeline.gateway.auth import other_brand_error
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.idempotency_key import IDEMPOTENCY_KEY_HEADER, MessageIds, message_ids
from pipeline.gateway.intake import AcceptedMessage, IntakeResult, MessageIntake
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import read_body
from pipeline.gateway.sender_policy import SenderPolicy
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
"""Bytes of a request's contents in memory at once; a request with more is accepted in parts."""
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
            "description": "One result for each message, in the request's order.",
            "content": {
                "application/json": {
                    **_RESULTS_SCHEMA,
                    "example": {"Results": [{"Status": 200, "MessageId": "0e5a0f0c-9f5b-5c0e-8d1a-3a52b1e1a001"}]},
                }
            },
        },
        400: {"description": "Invalid; `Error` says what and where.", "content": _ERROR},
        401: {"description": "No API key, or one that is unknown, revoked or expired.", "content": _ERROR},
        413: {"description": "Over MAILFOLD_BODY_MAX bytes, zipped or unzipped.", "content": _ERROR},
        415: {"description": "A content encoding other than gzip.", "content": _ERROR},
        503: {"description": "No message could be accepted; the request may safely be sent again.", "content": _ERROR},
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": IDEMPOTENCY_KEY_HEADER,
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
                "description": "Makes repeated requests safe: the same key and place in Messages, the same email.",
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


def add_route(routes: APIRouter, state: GatewayState) -> None:
    """Add the route to the router."""
    api = EmailV1SendApi(state)

    @routes.post("/v1/Email/", summary="Send emails", **_ROUTE_OPENAPI)
    @routes.post("/v1/Email", include_in_schema=False)
    async def send(request: Request, key: Annotated[ApiKey, Depends(state.authenticate)]) -> Response:
        """Accept each message, or answer with an `Error` and a `Status` that says whether to try again."""
        body = await read_body(request, state.runtime.settings.body_max)
        return await api.answer(request, key, body)


class EmailV1SendApi:
    """The handler of send requests."""

    def __init__(self, state: GatewayState) -> None:
        self._runtime = state.runtime
        self._limits = state.limits
        self._senders = state.senders
        self._message_counter = state.metrics.messages
        self._intake = MessageIntake(state.runtime, state.log)

    async def answer(self, request: Request, key: ApiKey, body: bytes) -> Response:
        """Accept a request's messages and return its response. Raises Refused for a body that is not a request."""
        count, commands, results = await asyncio.to_thread(dialect.parse_request, body)
        tenant = key.tenant
        ids = message_ids(request, tenant.tenant, DIALECT, count, self._runtime.new_id)
        commands = _of_allowed_brands(key, commands, results)
        commands = self._limit(tenant, commands, results)
        commands = await asyncio.to_thread(_of_allowed_senders, await self._senders.of(tenant), commands, results)
        intake_result = await self._accept(tenant.tenant, commands, ids, results)
        for command in commands:
            results.setdefault(command.index, _result(command, ids.email_ids[command.index], intake_result))
        self._count(results.values())
        crash_point("gateway.before-answer")
        unconfirmed = [result for result in results.values() if result.status == 503]
        if unconfirmed and not intake_result.accepted:
            return _respond(503, dialect.encode_response(count, results, NOTHING_TAKEN), RETRY_SOON)
        return _respond(200, dialect.encode_response(count, results))

    def _limit(
        self, tenant: Tenant, commands: list[EmailV1SendCommand], results: dict[int, EmailV1Result]
    ) -> list[EmailV1SendCommand]:
        """Return the first commands, as many as the tenant's limits grant now; add a result for each of the others."""
        batch_max, granted = self._limits.grant_up_to(tenant, len(commands))
        for position, command in enumerate(commands[granted:], granted):
            error = OVER_RATE if position < batch_max else OVER_MAX
            results[command.index] = dialect.item_error(command.index, 429, error)
        return commands[:granted]

    async def _accept(
        self, tenant: str, commands: list[EmailV1SendCommand], ids: MessageIds, results: dict[int, EmailV1Result]
    ) -> IntakeResult:
        """Render the commands and accept them, part by part; add a result for each that can't be rendered."""
        result = IntakeResult(set(), {})
        try:
            templates = await self._find_templates(tenant, {command.template_name for command in commands})
            budget = _RenderBudget()
            while commands:
                render = functools.partial(_render, commands, templates, self._runtime.clock(), results, budget)
                async with self._limits.content_memory.render_and_hold(
                    render, _contents_bytes, self._runtime.settings.append_timeout
                ) as rendered:
                    part = await self._intake.accept(self._messages(tenant, rendered, ids))
                result.accepted |= part.accepted
                result.refused |= part.refused
                if len(part.accepted) + len(part.refused) < len(rendered):
                    # The log is unavailable: each of the following parts would wait for its own timeout.
                    break
                done = {command.index for command, _ in rendered} | results.keys()
                commands = [command for command in commands if command.index not in done]
        except (DatabaseUnavailable, LogUnavailable):
            pass
        except HttpProblem:
            # Parts that are on the log must be answered as accepted; the client repeats the others, and is refused.
            if not result.accepted:
                raise
        return result

    def _messages(
        self, tenant: str, rendered: list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]], ids: MessageIds
    ) -> dict[EmailId, AcceptedMessage]:
        now = self._runtime.clock()
        return {
            ids.email_ids[command.index]: AcceptedMessage(
                _send_request(tenant, command, message, ids, now), message.content
            )
            for command, message in rendered
        }

    async def _find_templates(self, tenant: str, names: Iterable[str]) -> dict[str, Template]:
        """Return the tenant's templates that exist, by name."""
        async with self._runtime.pool.connection() as connection:
            templates = {name: await get_template(connection, tenant, name) for name in sorted(names)}
        return {name: template for name, template in templates.items() if template is not None}

    def _count(self, results: Iterable[EmailV1Result]) -> None:
        for result in results:
            can_retry = result.status in (429, 503)
            outcome = "successful" if not result.error else "fatal" if can_retry else "failed"
            self._message_counter.labels(outcome).inc()


def _of_allowed_brands(
    key: ApiKey, commands: list[EmailV1SendCommand], results: dict[int, EmailV1Result]
) -> list[EmailV1SendCommand]:
    """Return the commands of brands for which the key may be used; add a result for each of the others."""
    for command in commands:
        if not key.may_use_brand(command.brand):
            results[command.index] = dialect.item_error(command.index, 403, other_brand_error(key), ".BrandId")
    return [command for command in commands if command.index not in results]


def _of_allowed_senders(
    policy: SenderPolicy, commands: list[EmailV1SendCommand], results: dict[int, EmailV1Result]
) -> list[EmailV1SendCommand]:
    """Return the commands of brands whose senders the tenant may use; add a result for each of the others."""
    problems = {brand: policy.problem(brand, None) for brand in {command.brand for command in commands}}
    for command in commands:
        if problem := problems[command.brand]:
            results[command.index] = dialect.item_error(command.index, 403, problem, ".BrandId")
    return [command for command in commands if command.index not in results]


class _RenderBudget:
    """The bytes that may still be rendered for one request."""

    def __init__(self) -> None:
        self.bytes_left = dialect.MAX_RENDERED_BYTES


def _render(
    commands: list[EmailV1SendCommand],
    templates: Mapping[str, Template],
    now: int,
    results: dict[int, EmailV1Result],
    budget: _RenderBudget | None = None,
) -> list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]]:
    """Render the first commands, up to `MAX_HELD_CONTENT_BYTES` of contents; equal contents are held once.

    Commands that can't be rendered, and those over the request's budget, get a result instead.
    """
    budget = budget or _RenderBudget()
    rendered: list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]] = []
    contents: dict[MessageContent, MessageContent] = {}
    held_bytes_left = MAX_HELD_CONTENT_BYTES
    for command in commands:
        index = command.index
        if budget.bytes_left <= 0:
            results[index] = dialect.item_error(index, 429, OVER_CONTENTS)
            continue
        if held_bytes_left <= 0:
            break
        template = templates.get(command.template_name)
        try:
            message = dialect.render_message(command, template, now)
            check_part_sizes(message.content)
        except Refused as refused:
            status = 404 if template is None else 400
            results[index] = dialect.item_error(index, status, str(refused), f" {refused.where}".rstrip())
            continue
        budget.bytes_left -= content_bytes(message.content)
        if message.content not in contents:
            held_bytes_left -= content_bytes(message.content)
        shared = contents.setdefault(message.content, message.content)
        rendered.append((command, msgspec.structs.replace(message, content=shared)))
    return rendered


def _contents_bytes(rendered: list[tuple[EmailV1SendCommand, EmailV1RenderedMessage]]) -> int:
    """Return the size of the rendered contents, each shared content counted once."""
    contents = {id(message.content): message.content for _, message in rendered}
    return sum(map(content_bytes, contents.values()))


def _send_request(
    tenant: str, command: EmailV1SendCommand, message: EmailV1RenderedMessage, ids: MessageIds, now: int
) -> SendRequest:
    email_id = ids.email_ids[command.index]
    return SendRequest(
        email_id=email_id,
        message_id=email_id,
        tenant=tenant,
        dialect=DIALECT,
        brand=command.brand,
        recipient=command.recipient,
        recorded_at=now,
        identity=ids.identity,
        subject=message.subject,
        kind=command.kind,
        details=dialect.encode_details(command),
        template=message.ref,
        variables=msgspec.Raw(msgspec.json.encode(dialect.template_variables(command))),
    )


def _result(command: EmailV1SendCommand, email_id: EmailId, intake_result: IntakeResult) -> EmailV1Result:
    if email_id in intake_result.accepted:
        return EmailV1Result(status=200, message_id=email_id)
    if email_id in intake_result.refused:
        return dialect.item_error(command.index, 409, intake_result.refused[email_id])
    return dialect.item_error(command.index, 503, UNCONFIRMED)


def _respond(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, dict(headers or {}), "application/json")
