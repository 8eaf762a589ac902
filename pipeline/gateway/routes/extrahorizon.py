"""`/mail/v1`: Extra Horizon's mails in, emails on the log; questions in RQL, pages of mails out."""

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from pipeline.admin import Tenant
from pipeline.content import templates as content
from pipeline.content import tokens
from pipeline.content.links import TRACKING_HASH_PLACEHOLDER
from pipeline.content.localizations import Localizer
from pipeline.dialects import extrahorizon as dialect
from pipeline.dialects import rql
from pipeline.dialects.extrahorizon import (
    DIALECT,
    ERROR_CODES,
    ExtraHorizonMail,
    ExtraHorizonRefused,
    ExtraHorizonSendCommand,
)
from pipeline.errors import InvalidSignatureError, MissingLocalization, Refused
from pipeline.gateway.headers import NO_STORE_HEADERS, RETRY_SOON
from pipeline.gateway.idempotency_key import MessageIds, message_ids
from pipeline.gateway.intake import AcceptedMessage, MessageIntake
from pipeline.gateway.openapi import extrahorizon
from pipeline.gateway.request_body import read_body
from pipeline.gateway.routes import oauth, tracking
from pipeline.gateway.routes.templates import localizations_for
from pipeline.gateway.state import GatewayState
from pipeline.runtime.crashpoints import crash_point
from projections import mails
from projections.mailing import VIEW_EVENT_PREFIX
from projections.templates import get_template
from topics.contents import MessageContent
from topics.events import DeliveryEvent, EventKind
from topics.ids import owner_uuid
from topics.record import EmailId, Millis
from topics.requests import DEFAULT_BRAND, Mailbox, SendRequest
from topics.templates import Template, TemplateRef

OPENAPI_TYPES: Final = (dialect.ExtraHorizonSendRequest, dialect.ExtraHorizonMail, dialect.ExtraHorizonProblem)
encode_error = dialect.encode_error
UNCONFIRMED: Final = (
    "not confirmed in time; send it again, with the same Idempotency-Key where you gave one: then nobody gets it twice"
)
RouteHandler = Callable[[Request], Awaitable[Response]]


class ExtraHorizonRendered(msgspec.Struct, frozen=True):
    """What a mail says, plain or by its template."""

    subject: str
    content: MessageContent
    ref: TemplateRef | None


def router(world: GatewayState) -> APIRouter:
    """The mail service's surface."""
    routes = APIRouter(tags=["Extra Horizon"])
    surface = ExtraHorizonApi(world)
    described = extrahorizon.ROUTES_OPENAPI

    @routes.get("/mail/v1/health", summary="The mail service is there", **described["health"])
    async def health() -> Response:
        """Always 200."""
        return Response(b"{}", media_type="application/json")

    @routes.post("/mail/v1/", summary="Send a mail", **described["send"])
    @routes.post("/mail/v1", include_in_schema=False)
    async def send(request: Request) -> Response:
        """Plain, or by a template; each recipient is an email of its own, all with the same headers."""
        return await _answered(surface.send, request)

    @routes.get("/mail/v1/", summary="Find mails", **described["find"])
    @routes.get("/mail/v1", include_in_schema=False)
    async def find(request: Request) -> Response:
        """By RQL in the query string; oldest first, unless sorted."""
        return await _answered(surface.find, request)

    @routes.get("/mail/v1/queued", summary="Find mails that are not sent yet", **described["queued"])
    async def queued(request: Request) -> Response:
        """Those whose emails are not all in somebody's custody, and those that were given up."""
        return await _answered(surface.queued, request)

    @routes.get("/mail/v1/{tracking_hash}/open", summary="Register a mail being opened", **described["open"])
    async def opened(tracking_hash: str, request: Request) -> Response:
        """Every call is a view. JSON for who accepts it, the picture for an `<img>`."""
        return await _answered(functools.partial(surface.opened, tracking_hash), request)

    @routes.head("/mail/v1/{tracking_hash}/open", include_in_schema=False)
    async def looked(tracking_hash: str) -> Response:
        """Who only asks what is there downloads nothing: no view."""
        return Response(media_type="image/gif", headers=NO_STORE_HEADERS)

    return routes


class ExtraHorizonApi:
    """Answers requests; raises Trouble."""

    def __init__(self, world: GatewayState) -> None:
        self._world = world
        self._rt = world.runtime
        self._callers = oauth.OAuthAuthenticator(world)
        self._intake = MessageIntake(world.runtime, world.log)

    # ------------------------------------------------------------------ send
    async def send(self, request: Request) -> Response:
        """Validate, render, reserve, append: all of it before a 200."""
        tenant = await self._callers.tenant(request)
        wish = await asyncio.to_thread(dialect.parse_request, await read_body(request, self._rt.settings.body_max))
        now = self._rt.clock()
        said = await self._said(tenant.tenant, wish, now)
        dialect.check_size(wish, said.subject, said.content.html, said.content.text)
        ids = message_ids(request, tenant.tenant, DIALECT, len(wish.recipient_addresses), self._rt.new_id)
        mail = self._mail(tenant, wish, said, ids, now)
        parcels = self._parcels(tenant.tenant, wish, said, ids, mail)
        if wait := self._world.limits.grant_all(tenant, len(wish.recipient_addresses)):
            return _respond(
                429,
                ExtraHorizonRefused(4, "over the rate agreed upon; send it again later"),
                {"Retry-After": str(math.ceil(wait))},
            )
        if ids.identity and not await self._intake.reserve_recipients(ids.message_id, wish.recipient_addresses):
            raise ExtraHorizonRefused(17, "this Idempotency-Key was used before for other recipients")
        outcome = await self._intake.take(parcels)
        crash_point("gateway.before-answer")
        self._world.metrics.count_messages(len(wish.recipient_addresses), len(outcome.taken), len(outcome.refused))
        if outcome.refused:
            raise ExtraHorizonRefused(17, next(iter(outcome.refused.values())))
        if len(outcome.taken) < len(wish.recipient_addresses):
            return _respond(503, ExtraHorizonRefused(4, UNCONFIRMED), RETRY_SOON)
        return Response(dialect.encode_accepted_mail(mail), media_type="application/json")

    async def _said(self, tenant: str, wish: ExtraHorizonSendCommand, now: Millis) -> ExtraHorizonRendered:
        if not wish.template:
            body = wish.send.body or ""
            return ExtraHorizonRendered(
                wish.send.subject or "", MessageContent(text=body, attachments=wish.attachments), None
            )
        async with self._rt.pool.connection() as connection:
            template = await get_template(connection, tenant, wish.template)
        if template is None:
            raise ExtraHorizonRefused(16, "template_id: there is no such template")
        found = await localizations_for(self._world, template)
        values = {**wish.values, content.TRACKING_HASH_VARIABLE: TRACKING_HASH_PLACEHOLDER}
        try:
            said = await asyncio.to_thread(
                _rendered, template, wish.send.language or "", values, now=now, localizations=found
            )
        except Refused as refused:
            code = 1002 if isinstance(refused, MissingLocalization) else 1003
            raise ExtraHorizonRefused(code, f"template {refused.where}: {refused}") from None
        # A template without HTML is for everybody; beside HTML, the caller's text is for those who can't see it.
        text = (said.html and wish.send.body) or said.text
        return ExtraHorizonRendered(
            said.subject, MessageContent(html=said.html, text=text, attachments=wish.attachments), said.ref
        )

    def _mail(
        self, tenant: Tenant, wish: ExtraHorizonSendCommand, said: ExtraHorizonRendered, ids: MessageIds, now: Millis
    ) -> ExtraHorizonMail:
        send = wish.send
        return ExtraHorizonMail(
            id=ids.message_id,
            creator_id=owner_uuid(tenant.tenant),
            subject=said.subject,
            recipients=send.recipients,
            from_=send.from_ or self._sender(wish).address,
            reply_to=wish.reply_to,
            creation_timestamp=now,
            body=send.body,
            template_id=None if said.ref is None else said.ref.id,
            template_name=send.template_name,
            language=send.language,
            time_zone=send.time_zone,
            content=send.content,
        )

    def _sender(self, wish: ExtraHorizonSendCommand) -> Mailbox:
        return wish.sender or Mailbox(address=f"no-reply@{self._rt.settings.mail_domain}")

    def _parcels(
        self,
        tenant: str,
        wish: ExtraHorizonSendCommand,
        said: ExtraHorizonRendered,
        ids: MessageIds,
        mail: ExtraHorizonMail,
    ) -> dict[EmailId, AcceptedMessage]:
        details = dialect.encode_stored_mail(mail)
        whole = SendRequest(
            email_id=ids.email_ids[0],
            message_id=ids.message_id,
            tenant=tenant,
            dialect=DIALECT,
            brand=DEFAULT_BRAND,
            recipient="",
            recorded_at=mail.creation_timestamp,
            identity=ids.identity,
            sender=self._sender(wish),
            reply_to=wish.reply_to,
            subject=said.subject,
            shown=wish.visible_recipients,
            template=said.ref,
        )
        if not isinstance(wish.send.content, msgspec.UnsetType):
            whole = msgspec.structs.replace(whole, variables=wish.send.content)
        requests = [
            # The first recipient's request alone tells the mail.
            msgspec.structs.replace(
                whole, email_id=email_id, recipient=to, details=details if nth == 0 else whole.details
            )
            for nth, (to, email_id) in enumerate(zip(wish.recipient_addresses, ids.email_ids, strict=True))
        ]
        return {request.email_id: AcceptedMessage(request, said.content) for request in requests}

    # ------------------------------------------------------------------ ask
    async def find(self, request: Request) -> Response:
        """A page of the tenant's mails."""
        return await self._page(request, dialect.MAIL_FIELDS, mails.find)

    async def queued(self, request: Request) -> Response:
        """A page of those that are not sent yet."""
        return await self._page(request, dialect.QUEUED_MAIL_FIELDS, mails.find_queued)

    async def _page(self, request: Request, fields: rql.RqlFields, ask: Any) -> Response:
        tenant = await self._callers.tenant(request)
        try:
            asked = rql.parse(request.scope["query_string"].decode("latin-1"), fields)
        except Refused as refused:
            raise ExtraHorizonRefused(19, str(refused)) from None
        try:
            async with self._rt.pool.connection() as connection:
                found = await ask(connection, tenant.tenant, asked)
        except mails.MailQueryTimeout:
            raise ExtraHorizonRefused(21, "the query takes too long; ask for less") from None
        return Response(dialect.encode_page(found.mails, found.total, asked), media_type="application/json")

    # ------------------------------------------------------------------ open
    async def opened(self, tracking_hash: str, request: Request) -> Response:
        """Anybody may call it: the hash is the permission."""
        picture = not _wants_json(request.headers.get("accept", ""))
        try:
            email_id = tokens.read_pixel_token(self._world.signer, tracking_hash)
            if self._world.hit_limit.admit(DIALECT, email_id):
                event = self._event(request, email_id, picture=picture)
                self._world.event_buffer.put(lambda: event)
            else:
                self._world.metrics.tracked_over_limit.labels(EventKind.OPENED.value).inc()
        except InvalidSignatureError:
            self._world.metrics.invalid_signatures.labels("extrahorizon").inc()
            if not picture:
                raise ExtraHorizonRefused(16, "there is no mail with this tracking hash") from None
        if picture:
            return Response(tracking.PIXEL_GIF, media_type="image/gif", headers=NO_STORE_HEADERS)
        return Response(b'{"affected_records":1}', media_type="application/json", headers=NO_STORE_HEADERS)

    def _event(self, request: Request, email_id: EmailId, *, picture: bool) -> DeliveryEvent:
        now = self._rt.clock()
        caller = self._world.client_info(request.scope)
        return DeliveryEvent(
            email_id=email_id,
            event_id=f"{VIEW_EVENT_PREFIX}{self._rt.new_id()}",
            kind=EventKind.OPENED,
            occurred_at=now,
            recorded_at=now,
            provider=DIALECT,
            # An application that passes on what its own image heard is no reader, but no robot either.
            machine=tracking.machine_reason(caller) if picture else "",
            user_agent=caller.user_agent,
        )


def _rendered(
    template: Template, language: str, values: Mapping[str, Any], *, now: Millis, localizations: Template | None
) -> content.RenderedTemplate:
    localize = Localizer(localizations, language)
    return content.render_template(template, language, values, now=now, localize=localize)


async def _answered(handler: RouteHandler, request: Request) -> Response:
    try:
        return await handler(request)
    except ExtraHorizonRefused as trouble:
        return _respond(ERROR_CODES[trouble.code][0], trouble)


def _respond(status: int, trouble: ExtraHorizonRefused, headers: Mapping[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(dialect.encode_problem(trouble), status, headers=headers, media_type="application/json")


def _wants_json(accept: str) -> bool:
    """The SDK names JSON; an `<img>` names images, or nothing at all."""
    return "application/json" in accept.lower()
