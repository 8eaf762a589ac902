"""`POST /inbound/mail`: a raw message and its envelope from a mail server's pipe or a provider's forward -> the log."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from pipeline.admin import Tenant
from pipeline.gateway.problems import HttpProblem, unavailable_response
from pipeline.gateway.request_body import read_raw_body
from pipeline.gateway.smtp.envelope import mail_record
from pipeline.gateway.smtp.recorder import InboundMailResult
from pipeline.gateway.state import GatewayState

_BODY: Final = {"content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}}, "required": True}


def router(world: GatewayState) -> APIRouter:
    """The surface of bounced mail."""
    routes = APIRouter(tags=["providers"])

    @routes.post(
        "/inbound/mail",
        summary="Take a bounced or other inbound message",
        status_code=204,
        responses={503: {"description": "Not durable: send it again."}},
        openapi_extra={"requestBody": _BODY},
    )
    async def mail(
        request: Request,
        _tenant: Annotated[Tenant, Depends(world.authenticate)],
        to: Annotated[str, Query(max_length=320, description="The envelope's recipient.")] = "",
        sender: Annotated[str, Query(alias="from", max_length=320, description="Its sender; <> for none.")] = "",
        x_envelope_to: Annotated[str, Header(max_length=320)] = "",
        x_envelope_from: Annotated[str, Header(max_length=320)] = "",
    ) -> Response:
        """The raw message (RFC 5322) as the body; without an envelope its own `Delivered-To` and `To` are looked at.

        A message is discarded, and answered alike, where neither its address nor its text bears a signature of ours.
        """
        body = await read_raw_body(request, world.runtime.settings.inbound_max_bytes)
        if not body.strip():
            raise HttpProblem(400, "no message", "body")
        recipient = to or x_envelope_to
        kept = mail_record(body, world.runtime.clock(), to=recipient, sender=sender or x_envelope_from)
        receipt = await world.inbound_mail.record("http", kept, recipient)
        # A mail server's pipe would try a refusal again for days: what is not ours is done with, and counted.
        unconfirmed = receipt is InboundMailResult.UNCONFIRMED
        return unavailable_response("the log did not confirm it in time") if unconfirmed else Response(status_code=204)

    return routes
