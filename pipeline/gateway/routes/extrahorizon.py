"""Serve `/mail/v1`: send Extra Horizon's mails, find them by RQL queries and register that they were opened.

The application includes its router. A mail to several recipients is one email for each of them.
"""

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from pipeline.admin import ApiKey, KeyScope, Tenant
from pipeline.content import templates as content
from pipeline.content import tokens
from pipeline.content.links import TRACKING_HASH_PLACEHOLDER
from pipeline.content.localizations import Localizer
from pipeline.dialects import extrahorizon as dialect
from pipeline.dialects import extrahorizon_listing as listing
from pipeline.dialects import rql
from pipeline.dialects.extrahorizon import (
    DIALECT,
    ERROR_CODES,
    ExtraHorizonMail,
    ExtraHorizonRefused,
    ExtraHorizonSendCommand,
)
from pipeline.errors import InvalidSignatureError, MissingLocalization, Refused
from pipeline.gateway.auth import missing_scope, require_brand
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
from projections.listing_query import ListingQuery
from projections.mail_updates import VIEW_EVENT_PREFIX
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
FindMails = Callable[[mails.Connection, str, ListingQuery], Awaitable[mails.MailPage]]


class ExtraHorizonRendered(msgspec.Struct, frozen=True):
    """The rendered subject and content of a mail, with a reference to its template if it has one."""

    subject: str
    content: MessageContent
    ref: TemplateRef | None


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/mail/v1`."""
    routes = APIRouter(tags=["Extra Horizon"])
    api = ExtraHorizonApi(state)
    openapi = extrahorizon.ROUTES_OPENAPI

    @routes.get("/mail/v1/health", summary="The mail service is up", **openapi["health"])
    async def health() -> Response:
        """Answer 200 always."""
        return Response(b"{}", media_type="application/json")

    @routes.post("/mail/v1/", summary="Send a mail", **openapi["send"])
    @routes.post("/mail/v1", include_in_schema=False)
    async def send(request: Request) -> Response:
        """Send a plain mail or a template; each recipient gets a separate email, all with the same headers."""
        return await _respond_to(api.send, request)

    @routes.get("/mail/v1/", summary="Find mails", **openapi["find"])
    @routes.get("/mail/v1", include_in_schema=False)
    async def find(request: Request) -> Response:
        """Find mails by RQL in the query string; oldest first, unless sorted."""
        return await _respond_to(api.find, request)

    @routes.get("/mail/v1/queued", summary="Find mails that are not sent yet", **openapi["queued"])
    async def queued(request: Request) -> Response:
        """Find mails of which not every email was handed to a provider, and those that were given up."""
        return await _respond_to(api.queued, request)

    @routes.get("/mail/v1/{tracking_hash}/open", summary="Register a mail being opened", **openapi["open"])
    async def opened(tracking_hash: str, request: Request) -> Response:
        """Count a view. The response is JSON if the client accepts that, otherwise a picture for an `<img>`."""
        return await _respond_to(functools.partial(api.opened, tracking_hash), request)

    @routes.head("/mail/v1/{tracking_hash}/open", include_in_schema=False)
    async def looked(tracking_hash: str) -> Response:
        """Answer like the GET, but count no view: a client that sends HEAD downloads no picture."""
        return Response(media_type="image/gif", headers=NO_STORE_HEADERS)

    return routes


class ExtraHorizonApi:
    """The handler of requests; it raises ExtraHorizonRefused for those that it refuses."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self._runtime = state.runtime
        self._authenticator = oauth.OAuthAuthenticator(state)
        self._intake = MessageIntake(state.runtime, state.log)

    # ------------------------------------------------------------------ send
    async def send(self, request: Request) -> Response:
        """Validate, render, reserve and append the mail before it is confirmed by a 200."""
        tenant = (await self._authenticated(request)).tenant
        body = await read_body(request, self._runtime.settings.body_max)
        command = await asyncio.to_thread(dialect.parse_request, body)
        if command.sender and (problem := await self._sender_problem(tenant, command.sender)):
            raise ExtraHorizonRefused(10, f"from: {problem}")
        recipients = command.recipient_addresses
        now = self._runtime.clock()
        rendered = await self._render(tenant.tenant, command, now)
        dialect.check_size(command, rendered.subject, rendered.content.html, rendered.content.text)
        ids = message_ids(request, tenant.tenant, DIALECT, len(recipients), self._runtime.new_id)
        mail = self._mail(tenant, command, rendered, ids, now)
        messages = self._messages(tenant.tenant, command, rendered, ids, mail)
        if wait_s := self._state.limits.grant_all(tenant, len(recipients)):
            return _error_response(
                429,
                ExtraHorizonRefused(4, "over the rate agreed upon; send it again later"),
                {"Retry-After": str(math.ceil(wait_s))},
            )
        if ids.identity and not await self._intake.reserve_recipients(ids.message_id, recipients):
            raise ExtraHorizonRefused(17, "this Idempotency-Key was used before for other recipients")
        result = await self._intake.accept(messages)
        crash_point("gateway.before-answer")
        self._state.metrics.count_messages(len(recipients), len(result.accepted), len(result.refused))
        if result.refused:
            raise ExtraHorizonRefused(17, next(iter(result.refused.values())))
        if len(result.accepted) < len(recipients):
            return _error_response(503, ExtraHorizonRefused(4, UNCONFIRMED), RETRY_SOON)
        return Response(dialect.encode_accepted_mail(mail), media_type="application/json")

    async def _sender_problem(self, tenant: Tenant, sender: Mailbox) -> str:
        return (await self._state.senders.of(tenant)).problem(DEFAULT_BRAND, sender)

    async def _render(self, tenant: str, command: ExtraHorizonSendCommand, now: Millis) -> ExtraHorizonRendered:
        """Return the mail's subject and content. Raises ExtraHorizonRefused for a missing or failing template."""
        send = command.send
        if not command.template:
            plain = MessageContent(text=send.body or "", attachments=command.attachments)
            return ExtraHorizonRendered(send.subject or "", plain, None)
        async with self._runtime.pool.connection() as connection:
            template = await get_template(connection, tenant, command.template)
        if template is None:
            raise ExtraHorizonRefused(16, "template_id: there is no such template")
        localizations = await localizations_for(self._state, template)
        values = {**command.values, content.TRACKING_HASH_VARIABLE: TRACKING_HASH_PLACEHOLDER}
        try:
            rendered = await asyncio.to_thread(
                _render_template, template, send.language or "", values, now=now, localizations=localizations
            )
        except Refused as refused:
            code = 1002 if isinstance(refused, MissingLocalization) else 1003
            raise ExtraHorizonRefused(code, f"template {refused.where}: {refused}") from None
        # The caller's body is the plain-text alternative to HTML; a template without HTML replaces it.
        text = (rendered.html and send.body) or rendered.text
        message_content = MessageContent(html=rendered.html, text=text, attachments=command.attachments)
        return ExtraHorizonRendered(rendered.subject, message_content, rendered.ref)

    def _mail(
        self,
        tenant: Tenant,
        command: ExtraHorizonSendCommand,
        rendered: ExtraHorizonRendered,
        ids: MessageIds,
        now: Millis,
    ) -> ExtraHorizonMail:
        """Return the mail as the response shows it and the first recipient's request stores it."""
        send = command.send
        return ExtraHorizonMail(
            id=ids.message_id,
            creator_id=owner_uuid(tenant.tenant),
            subject=rendered.subject,
            recipients=send.recipients,
            from_=send.from_ or self._sender(command).address,
            reply_to=command.reply_to,
            creation_timestamp=now,
            body=send.body,
            template_id=None if rendered.ref is None else rendered.ref.id,
            template_name=send.template_name,
            language=send.language,
            time_zone=send.time_zone,
            content=send.content,
        )

    def _sender(self, command: ExtraHorizonSendCommand) -> Mailbox:
        return command.sender or Mailbox(address=f"no-reply@{self._runtime.settings.mail_domain}")

    def _messages(
        self,
        tenant: str,
        command: ExtraHorizonSendCommand,
        rendered: ExtraHorizonRendered,
        ids: MessageIds,
        mail: ExtraHorizonMail,
    ) -> dict[EmailId, AcceptedMessage]:
        """Return one message per recipient."""
        details = dialect.encode_stored_mail(mail)
        common = SendRequest(
            email_id=ids.email_ids[0],
            message_id=ids.message_id,
            tenant=tenant,
            dialect=DIALECT,
            brand=DEFAULT_BRAND,
            recipient="",
            recorded_at=mail.creation_timestamp,
            identity=ids.identity,
            sender=self._sender(command),
            reply_to=command.reply_to,
            subject=rendered.subject,
            shown=command.visible_recipients,
            template=rendered.ref,
        )
        if not isinstance(command.send.content, msgspec.UnsetType):
            common = msgspec.structs.replace(common, variables=command.send.content)
        requests = [
            # Only the first recipient's request stores the mail, so that it is listed once.
            msgspec.structs.replace(
                common, email_id=email_id, recipient=to, details=details if index == 0 else common.details
            )
            for index, (to, email_id) in enumerate(zip(command.recipient_addresses, ids.email_ids, strict=True))
        ]
        return {request.email_id: AcceptedMessage(request, rendered.content) for request in requests}

    # ------------------------------------------------------------------ find
    async def find(self, request: Request) -> Response:
        """Return a page of the tenant's mails."""
        key = await self._authenticated(request)
        sees_addresses = key.has_scope(KeyScope.HISTORY_ADDRESSES)
        fields = listing.MAIL_FIELDS if sees_addresses else listing.MASKED_MAIL_FIELDS
        return await self._page(request, key, fields, mails.find)

    async def queued(self, request: Request) -> Response:
        """Return a page of the tenant's mails that are not sent yet."""
        key = await self._authenticated(request)
        sees_addresses = key.has_scope(KeyScope.HISTORY_ADDRESSES)
        fields = listing.QUEUED_MAIL_FIELDS if sees_addresses else listing.MASKED_QUEUED_MAIL_FIELDS
        return await self._page(request, key, fields, mails.find_queued)

    async def _page(self, request: Request, key: ApiKey, fields: rql.RqlFields, find: FindMails) -> Response:
        """Return the page that the RQL in the query string asks for, found by a function of `projections.mails`."""
        try:
            query = rql.parse(request.scope["query_string"].decode("latin-1"), fields)
        except rql.HiddenRqlField:
            raise missing_scope(KeyScope.HISTORY_ADDRESSES) from None
        except Refused as refused:
            raise ExtraHorizonRefused(19, str(refused)) from None
        try:
            page = await self._state.history.read(lambda connection: find(connection, key.tenant.tenant, query))
        except mails.MailQueryTimeout:
            raise ExtraHorizonRefused(21, "the query takes too long; ask for less") from None
        body = listing.encode_page(page.mails, page.total, query, masks_addresses=bool(fields.hidden))
        return Response(body, media_type="application/json")

    async def _authenticated(self, request: Request) -> ApiKey:
        """Return the request's key, which may be used for the brand of all mails."""
        key = await self._authenticator.key_of(request)
        require_brand(key, DEFAULT_BRAND)
        return key

    # ------------------------------------------------------------------ open
    async def opened(self, tracking_hash: str, request: Request) -> Response:
        """Record that a mail was opened. Needs no API key, because the hash is signed and names the email."""
        wants_picture = not _wants_json(request.headers.get("accept", ""))
        try:
            email_id = tokens.read_pixel_token(self._state.signer, tracking_hash)
            if self._state.hit_limit.admit(DIALECT, email_id):
                event = self._opened_event(request, email_id, is_picture=wants_picture)
                self._state.event_buffer.put(lambda: event)
            else:
                self._state.metrics.tracked_over_limit.labels(EventKind.OPENED.value).inc()
        except InvalidSignatureError:
            self._state.metrics.invalid_signatures.labels("extrahorizon").inc()
            if not wants_picture:
                raise ExtraHorizonRefused(16, "there is no mail with this tracking hash") from None
        if wants_picture:
            return Response(tracking.PIXEL_GIF, media_type="image/gif", headers=NO_STORE_HEADERS)
        return Response(b'{"affected_records":1}', media_type="application/json", headers=NO_STORE_HEADERS)

    def _opened_event(self, request: Request, email_id: EmailId, *, is_picture: bool) -> DeliveryEvent:
        now = self._runtime.clock()
        client = self._state.client_info(request.scope)
        return DeliveryEvent(
            email_id=email_id,
            event_id=f"{VIEW_EVENT_PREFIX}{self._runtime.new_id()}",
            kind=EventKind.OPENED,
            occurred_at=now,
            recorded_at=now,
            provider=DIALECT,
            # JSON calls come from the tenant's own application, which reports what it saw: its client is no bot.
            machine=tracking.machine_reason(client) if is_picture else "",
            user_agent=client.user_agent,
        )


def _render_template(
    template: Template, language: str, values: Mapping[str, Any], *, now: Millis, localizations: Template | None
) -> content.RenderedTemplate:
    localize = Localizer(localizations, language)
    return content.render_template(template, language, values, now=now, localize=localize)


async def _respond_to(handler: RouteHandler, request: Request) -> Response:
    try:
        return await handler(request)
    except ExtraHorizonRefused as refused:
        return _error_response(ERROR_CODES[refused.code][0], refused)


def _error_response(status: int, error: ExtraHorizonRefused, headers: Mapping[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(dialect.encode_problem(error), status, headers=headers, media_type="application/json")


def _wants_json(accept: str) -> bool:
    """Return True if an Accept header names JSON, as the SDK's does; browsers send none for an `<img>`, or images."""
    return "application/json" in accept.lower()
