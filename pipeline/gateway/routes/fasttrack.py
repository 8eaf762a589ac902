"""Serve `POST /channels/email/batch`: accept Fast Track's batches of messages; the application includes its router."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import ApiKey, Tenant
from pipeline.dialects import fasttrack
from pipeline.dialects.fasttrack import DIALECT, FastTrackItemError, FastTrackItemSuccess, FastTrackSendCommand
from pipeline.errors import DatabaseUnavailable
from pipeline.gateway.auth import other_brand_error
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.intake import AcceptedMessage, IntakeResult, MessageIntake
from pipeline.gateway.openapi import common
from pipeline.gateway.request_body import read_body
from pipeline.gateway.sender_policy import SenderPolicy
from pipeline.gateway.state import GatewayState
from pipeline.runtime.crashpoints import crash_point
from topics import ids
from topics.contents import MessageContent
from topics.record import EmailId, Millis
from topics.requests import SendRequest

OVER_MAX = "over the batch maximum; send it again in another batch"
OVER_RATE = "over the rate agreed upon; send it again later"
UNCONFIRMED = "the log did not confirm it in time; send it again"
NOTHING_TAKEN: Final = "nothing could be taken: a part of Mailfold does not answer; send the batch again"
CONTRADICTS_DUPLICATE = "this id is in the batch before with another recipient or brand"


encode_error: Final = fasttrack.encode_error
"""The JSON body of an error of a whole request, as Fast Track expects it."""


def router(state: GatewayState) -> APIRouter:
    """Return the routes of Fast Track's API."""
    routes = APIRouter(tags=["Fast Track"])
    api = FastTrackApi(state)

    @routes.post("/channels/email/batch", summary="Send a batch of emails", **common.FASTTRACK_BATCH_OPENAPI)
    # Fast Track repeats a redirected request for ever, so a URL configured with a slash too many is served directly.
    @routes.post("/channels/email/batch/", include_in_schema=False)
    @routes.post("//channels/email/batch", include_in_schema=False)
    async def batch(request: Request, key: Annotated[ApiKey, Depends(state.authenticate)]) -> Response:
        """Accept each message (`successful`), refuse it for good (`failed`) or ask for it again (`fatal`).

        A message is accepted once its record is durable. Sent again, it gets the same `email_id` and
        goes out once. 503: no message could be accepted; the batch may safely be repeated.
        """
        body = await read_body(request, state.runtime.settings.body_max)
        return await api.answer(key, body)

    return routes


class FastTrackApi:
    """The handler of batches."""

    def __init__(self, state: GatewayState) -> None:
        self._clock = state.runtime.clock
        self._message_counter = state.metrics.messages
        self._intake = MessageIntake(state.runtime, state.log)
        self._limits = state.limits
        self._senders = state.senders

    async def answer(self, key: ApiKey, body: bytes) -> Response:
        """Accept a batch and return its response. Raises Refused for a body that is not a batch."""
        commands, failed = await asyncio.to_thread(fasttrack.parse_batch, body)
        tenant = key.tenant
        commands, other_brands = _split_by_brand(key, commands)
        commands, fatal = self._limit(tenant, commands)
        policy = await self._senders.of(tenant)
        # In a thread, like parsing: an internationalized domain takes a millisecond.
        commands, foreign_senders = await asyncio.to_thread(_split_by_sender, policy, commands)
        commands_by_email, contradictions, messages = await asyncio.to_thread(
            _prepare, tenant.tenant, commands, self._clock()
        )
        failed += other_brands + foreign_senders + contradictions
        try:
            result = await self._intake.accept(messages)
        except DatabaseUnavailable:
            result = IntakeResult(set(), {})
        successful, refused, unconfirmed = _sort_by_outcome(commands_by_email, result)
        failed, fatal = failed + refused, fatal + unconfirmed
        for outcome, items in (("successful", successful), ("failed", failed), ("fatal", fatal)):
            self._message_counter.labels(outcome).inc(len(items))
        crash_point("gateway.before-answer")
        if unconfirmed and not successful:
            return Response(encode_error(503, NOTHING_TAKEN, ""), 503, RETRY_SOON, "application/json")
        return Response(fasttrack.encode_response(successful, failed, fatal), media_type="application/json")

    def _limit(
        self, tenant: Tenant, commands: list[FastTrackSendCommand]
    ) -> tuple[list[FastTrackSendCommand], list[FastTrackItemError]]:
        """Return the first commands, as many as the tenant's limits grant now, and an error for each of the others."""
        batch_max, granted = self._limits.grant_up_to(tenant, len(commands))
        over_rate = [fasttrack.item_error(command, OVER_RATE) for command in commands[granted:batch_max]]
        over_max = [fasttrack.item_error(command, OVER_MAX) for command in commands[batch_max:]]
        return commands[:granted], over_rate + over_max


def _split_by_brand(
    key: ApiKey, commands: list[FastTrackSendCommand]
) -> tuple[list[FastTrackSendCommand], list[FastTrackItemError]]:
    """Return the commands of brands for which the key may be used, and an error for each of the others."""
    allowed = [command for command in commands if key.may_use_brand(command.brand)]
    if len(allowed) == len(commands):
        return commands, []
    error = other_brand_error(key)
    others = [command for command in commands if not key.may_use_brand(command.brand)]
    return allowed, [fasttrack.item_error(command, error, ".activity.brand_id") for command in others]


def _split_by_sender(
    policy: SenderPolicy, commands: list[FastTrackSendCommand]
) -> tuple[list[FastTrackSendCommand], list[FastTrackItemError]]:
    """Return the commands whose senders the tenant may use, and an error for each of the others."""
    if policy.accepts_all:
        return commands, []
    allowed: list[FastTrackSendCommand] = []
    others: list[FastTrackItemError] = []
    for command in commands:
        if problem := policy.problem(command.brand, command.sender):
            others.append(fasttrack.item_error(command, problem, ".sender_address"))
        else:
            allowed.append(command)
    return allowed, others


def _prepare(
    tenant: str, commands: list[FastTrackSendCommand], now: Millis
) -> tuple[dict[EmailId, list[FastTrackSendCommand]], list[FastTrackItemError], dict[EmailId, AcceptedMessage]]:
    """Return the commands by email, an error for each contradicting command, and the messages to accept.

    Runs in a thread, like parsing: thousands of messages would block the event loop, and with it pixels and links.
    """
    commands_by_email, contradictions = _group_by_email(tenant, commands)
    messages = {
        email_id: _message(tenant, email_id, duplicates[0], now) for email_id, duplicates in commands_by_email.items()
    }
    return commands_by_email, contradictions, messages


def _group_by_email(
    tenant: str, commands: list[FastTrackSendCommand]
) -> tuple[dict[EmailId, list[FastTrackSendCommand]], list[FastTrackItemError]]:
    """Return the commands of each email, and an error for each whose recipient or brand is not the first one's."""
    commands_by_email: dict[EmailId, list[FastTrackSendCommand]] = {}
    contradictions: list[FastTrackItemError] = []
    for command in commands:
        duplicates = commands_by_email.setdefault(ids.email_id(tenant, DIALECT, command.identity), [])
        if duplicates and (command.recipient, command.brand) != (duplicates[0].recipient, duplicates[0].brand):
            contradictions.append(fasttrack.item_error(command, CONTRADICTS_DUPLICATE, ".activity.id"))
        else:
            duplicates.append(command)
    return commands_by_email, contradictions


def _message(tenant: str, email_id: EmailId, command: FastTrackSendCommand, now: Millis) -> AcceptedMessage:
    request = SendRequest(
        email_id=email_id,
        message_id=ids.message_id(tenant, DIALECT, command.identity),
        tenant=tenant,
        dialect=DIALECT,
        brand=command.brand,
        recipient=command.recipient,
        recorded_at=now,
        identity=command.identity,
        sender=command.sender,
        reply_to=command.reply_to,
        subject=command.subject,
        activity=command.activity,
    )
    return AcceptedMessage(request, MessageContent(html=command.html, amp=command.amp))


def _sort_by_outcome(
    commands_by_email: dict[EmailId, list[FastTrackSendCommand]], result: IntakeResult
) -> tuple[list[FastTrackItemSuccess], list[FastTrackItemError], list[FastTrackItemError]]:
    """Return the items of accepted commands, of refused ones and of those that were not confirmed."""
    successful: list[FastTrackItemSuccess] = []
    refused: list[FastTrackItemError] = []
    unconfirmed: list[FastTrackItemError] = []
    for email_id, duplicates in commands_by_email.items():
        for command in duplicates:
            if email_id in result.accepted:
                successful.append(FastTrackItemSuccess(id=command.identity, email_id=email_id))
            elif email_id in result.refused:
                refused.append(fasttrack.item_error(command, result.refused[email_id]))
            else:
                unconfirmed.append(fasttrack.item_error(command, UNCONFIRMED))
    return successful, refused, unconfirmed
