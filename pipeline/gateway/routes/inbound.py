"""Serve `POST /inbound/mail`: record a raw message from a mail server's pipe or a provider's forward on the log.

The application includes its router.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from pipeline.admin import ApiKey
from pipeline.gateway.problems import HttpProblem, unavailable_response
from pipeline.gateway.request_body import read_raw_body
from pipeline.gateway.smtp.envelope import mail_record
from pipeline.gateway.smtp.recorder import InboundMailResult
from pipeline.gateway.state import GatewayState

_BODY: Final = {"content": {"message/rfc822": {"schema": {"type": "string", "format": "binary"}}}, "required": True}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "No message."},
    401: {"description": "No API key, or one that is unknown, revoked or expired."},
    413: {"description": "Over MAILFOLD_INBOUND_MAX_BYTES."},
    503: {"description": "Not confirmed in time; send it again."},
}


def router(state: GatewayState) -> APIRouter:
    """Return the route for inbound mail."""
    routes = APIRouter(tags=["providers"])

    @routes.post(
        "/inbound/mail",
        summary="Record a bounced or other inbound message",
        status_code=204,
        responses=_RESPONSES,
        openapi_extra={"requestBody": _BODY},
    )
    async def mail(
        request: Request,
        _key: Annotated[ApiKey, Depends(state.authenticate)],
        to: Annotated[str, Query(max_length=320, description="The envelope's recipient.")] = "",
        sender: Annotated[str, Query(alias="from", max_length=320, description="Its sender; <> for none.")] = "",
        x_envelope_to: Annotated[str, Header(max_length=320)] = "",
        x_envelope_from: Annotated[str, Header(max_length=320)] = "",
    ) -> Response:
        """Record the raw message (RFC 5322) in the body; without an envelope, its `Delivered-To` and `To` are read.

        A message is discarded, with the same response, if neither its address nor its text has a signature of ours.
        """
        body = await read_raw_body(request, state.runtime.settings.inbound_max_bytes)
        if not body.strip():
            raise HttpProblem(400, "no message", "body")
        recipient = to or x_envelope_to
        record = mail_record(body, state.runtime.clock(), to=recipient, sender=sender or x_envelope_from)
        result = await state.inbound_mail.record("http", record, recipient)
        if result is InboundMailResult.UNCONFIRMED:
            return unavailable_response("the log did not confirm it in time")
        # Discarded mail is answered by 204, too: a mail server's pipe would repeat a refused message for days.
        return Response(status_code=204)

    return routes
