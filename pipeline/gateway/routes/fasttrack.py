"""`POST /channels/email/batch`: Fast Track's batch in; each message successful, failed or fatal out."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import Tenant
from pipeline.dialects import fasttrack
from pipeline.dialects.fasttrack import DIALECT, FastTrackItemError, FastTrackItemSuccess, FastTrackSendCommand
from pipeline.errors import DatabaseUnavailable
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.intake import AcceptedMessage, IntakeResult, MessageIntake
from pipeline.gateway.openapi import common
from pipeline.gateway.request_body import read_body
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
"""An error of a whole request, as Fast Track expects it."""


def router(world: GatewayState) -> APIRouter:
    """Fast Track's surface."""
    routes = APIRouter(tags=["Fast Track"])
    batches = FastTrackApi(world)

    @routes.post("/channels/email/batch", summary="Take a batch of emails", **common.FASTTRACK_BATCH_OPENAPI)
    # It repeats a batch for ever that is answered by a redirect; one slash too many is soon configured.
    @routes.post("/channels/email/batch/", include_in_schema=False)
    @routes.post("//channels/email/batch", include_in_schema=False)
    async def batch(request: Request, tenant: Annotated[Tenant, Depends(world.authenticate)]) -> Response:
        """Each message is taken (`successful`), refused for good (`failed`) or to be sent again (`fatal`).

        A message is taken once its record is durable; sent again, it gets the same `email_id` and
        goes out once. 503: nothing could be taken, the batch may safely be repeated.
        """
        body = await read_body(request, world.runtime.settings.body_max)
        return await batches.answer(tenant, body)

    return routes


class FastTrackApi:
    """Takes batches."""

    def __init__(self, world: GatewayState) -> None:
        self._clock = world.runtime.clock
        self._counted = world.metrics.messages
        self._intake = MessageIntake(world.runtime, world.log)
        self._limits = world.limits

    async def answer(self, tenant: Tenant, body: bytes) -> Response:
        """A batch's answer. Raises Refused for a body that is no batch."""
        wishes, failed = await asyncio.to_thread(fasttrack.parse_batch, body)
        wishes, fatal = self._limit(tenant, wishes)
        known, twins, parcels = await asyncio.to_thread(_prepare, tenant.tenant, wishes, self._clock())
        failed += twins
        try:
            outcome = await self._intake.take(parcels)
        except DatabaseUnavailable:
            outcome = IntakeResult(set(), {})
        successful, refused, unconfirmed = _sort(known, outcome)
        failed, fatal = failed + refused, fatal + unconfirmed
        for name, found in (("successful", successful), ("failed", failed), ("fatal", fatal)):
            self._counted.labels(name).inc(len(found))
        crash_point("gateway.before-answer")
        if unconfirmed and not successful:
            return Response(encode_error(503, NOTHING_TAKEN, ""), 503, RETRY_SOON, "application/json")
        return Response(fasttrack.encode_response(successful, failed, fatal), media_type="application/json")

    def _limit(
        self, tenant: Tenant, wishes: list[FastTrackSendCommand]
    ) -> tuple[list[FastTrackSendCommand], list[FastTrackItemError]]:
        """What is taken now, in the batch's order; a fault for each of the rest."""
        most, taken = self._limits.grant_up_to(tenant, len(wishes))
        slow, many = wishes[taken:most], wishes[most:]
        fatal = [fasttrack.item_error(wish, OVER_RATE) for wish in slow]
        return wishes[:taken], fatal + [fasttrack.item_error(wish, OVER_MAX) for wish in many]


def _prepare(
    tenant: str, wishes: list[FastTrackSendCommand], now: Millis
) -> tuple[dict[EmailId, list[FastTrackSendCommand]], list[FastTrackItemError], dict[EmailId, AcceptedMessage]]:
    """In a thread, as the reading: thousands of messages would keep pixels and links waiting."""
    known, twins = _by_email(tenant, wishes)
    return known, twins, {email_id: _parcel(tenant, email_id, same[0], now) for email_id, same in known.items()}


def _by_email(
    tenant: str, wishes: list[FastTrackSendCommand]
) -> tuple[dict[EmailId, list[FastTrackSendCommand]], list[FastTrackItemError]]:
    """Each email's wishes, the first of which counts; a fault for those that contradict their first."""
    known: dict[EmailId, list[FastTrackSendCommand]] = {}
    faults: list[FastTrackItemError] = []
    for wish in wishes:
        same = known.setdefault(ids.email_id(tenant, DIALECT, wish.identity), [])
        if same and (wish.recipient, wish.brand) != (same[0].recipient, same[0].brand):
            faults.append(fasttrack.item_error(wish, CONTRADICTS_DUPLICATE, ".activity.id"))
        else:
            same.append(wish)
    return known, faults


def _parcel(tenant: str, email_id: EmailId, wish: FastTrackSendCommand, now: Millis) -> AcceptedMessage:
    request = SendRequest(
        email_id=email_id,
        message_id=ids.message_id(tenant, DIALECT, wish.identity),
        tenant=tenant,
        dialect=DIALECT,
        brand=wish.brand,
        recipient=wish.recipient,
        recorded_at=now,
        identity=wish.identity,
        sender=wish.sender,
        reply_to=wish.reply_to,
        subject=wish.subject,
        activity=wish.activity,
    )
    return AcceptedMessage(request, MessageContent(html=wish.html, amp=wish.amp))


def _sort(
    known: dict[EmailId, list[FastTrackSendCommand]], outcome: IntakeResult
) -> tuple[list[FastTrackItemSuccess], list[FastTrackItemError], list[FastTrackItemError]]:
    successful: list[FastTrackItemSuccess] = []
    refused: list[FastTrackItemError] = []
    unconfirmed: list[FastTrackItemError] = []
    for email_id, same in known.items():
        for wish in same:
            if email_id in outcome.taken:
                successful.append(FastTrackItemSuccess(id=wish.identity, email_id=email_id))
            elif email_id in outcome.refused:
                refused.append(fasttrack.item_error(wish, outcome.refused[email_id]))
            else:
                unconfirmed.append(fasttrack.item_error(wish, UNCONFIRMED))
    return successful, refused, unconfirmed
