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
from pipeline.content.links import TRACKING_MARK
from pipeline.content.localizations import Localized
from pipeline.dialects import extrahorizon as dialect
from pipeline.dialects import rql
from pipeline.dialects.extrahorizon import CODES, DIALECT, Mail, Trouble, Wish
from pipeline.errors import Forged, MissingLocalization, Refused
from pipeline.gateway.headers import NO_STORE, RETRY_SOON
from pipeline.gateway.idempotency_key import Message, message
from pipeline.gateway.intake import Intake, Parcel
from pipeline.gateway.openapi import extrahorizon
from pipeline.gateway.request_body import read_body
from pipeline.gateway.routes import oauth, tracking
from pipeline.gateway.routes.templates import localizations_for
from pipeline.gateway.state import World
from pipeline.runtime.crashpoints import crash_point
from projections import mails
from projections.mailing import VIEW
from projections.templates import get_template
from topics.contents import Content
from topics.events import DeliveryEvent, EventKind
from topics.ids import owner_uuid
from topics.record import EmailId, Millis
from topics.requests import DEFAULT_BRAND, Mailbox, SendRequest
from topics.templates import Template, TemplateRef

TYPES: Final = (dialect.Send, dialect.Mail, dialect.Problem)
shape = dialect.shape
AGAIN: Final = (
    "not confirmed in time; send it again, with the same Idempotency-Key where you gave one: then nobody gets it twice"
)
Handler = Callable[[Request], Awaitable[Response]]


class Said(msgspec.Struct, frozen=True):
    """What a mail says, plain or by its template."""

    subject: str
    content: Content
    ref: TemplateRef | None


def router(world: World) -> APIRouter:
    """The mail service's surface."""
    routes = APIRouter(tags=["Extra Horizon"])
    surface = Surface(world)
    described = extrahorizon.DESCRIBED

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
        return Response(media_type="image/gif", headers=NO_STORE)

    return routes


class Surface:
    """Answers requests; raises Trouble."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rt = world.rt
        self._callers = oauth.Callers(world)
        self._intake = Intake(world.rt, world.log)

    # ------------------------------------------------------------------ send
    async def send(self, request: Request) -> Response:
        """Validate, render, reserve, append: all of it before a 200."""
        tenant = await self._callers.tenant(request)
        wish = await asyncio.to_thread(dialect.read, await read_body(request, self._rt.settings.body_max))
        now = self._rt.clock()
        said = await self._said(tenant.tenant, wish, now)
        dialect.check_size(wish, said.subject, said.content.html, said.content.text)
        ids = message(request, tenant.tenant, DIALECT, len(wish.each), self._rt.new_id)
        mail = self._mail(tenant, wish, said, ids, now)
        parcels = self._parcels(tenant.tenant, wish, said, ids, mail)
        if wait := self._world.limits.whole(tenant, len(wish.each)):
            return _respond(
                429, Trouble(4, "over the rate agreed upon; send it again later"), {"Retry-After": str(math.ceil(wait))}
            )
        if ids.identity and not await self._intake.is_its_list(ids.message_id, wish.each):
            raise Trouble(17, "this Idempotency-Key was used before for other recipients")
        outcome = await self._intake.take(parcels)
        crash_point("gateway.before-answer")
        self._world.metrics.count_messages(len(wish.each), len(outcome.taken), len(outcome.refused))
        if outcome.refused:
            raise Trouble(17, next(iter(outcome.refused.values())))
        if len(outcome.taken) < len(wish.each):
            return _respond(503, Trouble(4, AGAIN), RETRY_SOON)
        return Response(dialect.answer(mail), media_type="application/json")

    async def _said(self, tenant: str, wish: Wish, now: Millis) -> Said:
        if not wish.template:
            body = wish.send.body or ""
            return Said(wish.send.subject or "", Content(text=body, attachments=wish.attachments), None)
        async with self._rt.pool.connection() as connection:
            template = await get_template(connection, tenant, wish.template)
        if template is None:
            raise Trouble(16, "template_id: there is no such template")
        found = await localizations_for(self._world, template)
        values = {**wish.values, content.TRACKING_HASH: TRACKING_MARK}
        try:
            said = await asyncio.to_thread(
                _rendered, template, wish.send.language or "", values, now=now, localizations=found
            )
        except Refused as refused:
            code = 1002 if isinstance(refused, MissingLocalization) else 1003
            raise Trouble(code, f"template {refused.where}: {refused}") from None
        # A template without HTML is for everybody; beside HTML, the caller's text is for those who can't see it.
        text = (said.html and wish.send.body) or said.text
        return Said(said.subject, Content(html=said.html, text=text, attachments=wish.attachments), said.ref)

    def _mail(self, tenant: Tenant, wish: Wish, said: Said, ids: Message, now: Millis) -> Mail:
        send = wish.send
        return Mail(
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

    def _sender(self, wish: Wish) -> Mailbox:
        return wish.sender or Mailbox(address=f"no-reply@{self._rt.settings.mail_domain}")

    def _parcels(self, tenant: str, wish: Wish, said: Said, ids: Message, mail: Mail) -> dict[EmailId, Parcel]:
        details = dialect.kept(mail)
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
            shown=wish.shown,
            template=said.ref,
        )
        if not isinstance(wish.send.content, msgspec.UnsetType):
            whole = msgspec.structs.replace(whole, variables=wish.send.content)
        requests = [
            # The first recipient's request alone tells the mail.
            msgspec.structs.replace(
                whole, email_id=email_id, recipient=to, details=details if nth == 0 else whole.details
            )
            for nth, (to, email_id) in enumerate(zip(wish.each, ids.email_ids, strict=True))
        ]
        return {request.email_id: Parcel(request, said.content) for request in requests}

    # ------------------------------------------------------------------ ask
    async def find(self, request: Request) -> Response:
        """A page of the tenant's mails."""
        return await self._page(request, dialect.MAIL, mails.find)

    async def queued(self, request: Request) -> Response:
        """A page of those that are not sent yet."""
        return await self._page(request, dialect.QUEUED, mails.find_queued)

    async def _page(self, request: Request, fields: rql.Fields, ask: Any) -> Response:
        tenant = await self._callers.tenant(request)
        try:
            asked = rql.parse(request.scope["query_string"].decode("latin-1"), fields)
        except Refused as refused:
            raise Trouble(19, str(refused)) from None
        try:
            async with self._rt.pool.connection() as connection:
                found = await ask(connection, tenant.tenant, asked)
        except mails.TooLong:
            raise Trouble(21, "the query takes too long; ask for less") from None
        return Response(dialect.page(found.mails, found.total, asked), media_type="application/json")

    # ------------------------------------------------------------------ open
    async def opened(self, tracking_hash: str, request: Request) -> Response:
        """Anybody may call it: the hash is the permission."""
        picture = not _wants_json(request.headers.get("accept", ""))
        try:
            email_id = tokens.read_pixel_token(self._world.signer, tracking_hash)
            if self._world.hits.allows(DIALECT, email_id):
                event = self._event(request, email_id, picture=picture)
                self._world.notes.put(lambda: event)
            else:
                self._world.metrics.tracked_over_limit.labels(EventKind.OPENED.value).inc()
        except Forged:
            self._world.metrics.forged.labels("extrahorizon").inc()
            if not picture:
                raise Trouble(16, "there is no mail with this tracking hash") from None
        if picture:
            return Response(tracking.GIF, media_type="image/gif", headers=NO_STORE)
        return Response(b'{"affected_records":1}', media_type="application/json", headers=NO_STORE)

    def _event(self, request: Request, email_id: EmailId, *, picture: bool) -> DeliveryEvent:
        now = self._rt.clock()
        caller = self._world.callers(request.scope)
        return DeliveryEvent(
            email_id=email_id,
            event_id=f"{VIEW}{self._rt.new_id()}",
            kind=EventKind.OPENED,
            occurred_at=now,
            recorded_at=now,
            provider=DIALECT,
            # An application that passes on what its own image heard is no reader, but no robot either.
            machine=tracking.machine_reason(caller) if picture else "",
            user_agent=caller.agent,
        )


def _rendered(
    template: Template, language: str, values: Mapping[str, Any], *, now: Millis, localizations: Template | None
) -> content.Rendered:
    localize = Localized(localizations, language)
    return content.render(template, language, values, now=now, localize=localize)


async def _answered(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except Trouble as trouble:
        return _respond(CODES[trouble.code][0], trouble)


def _respond(status: int, trouble: Trouble, headers: Mapping[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(dialect.problem(trouble), status, headers=headers, media_type="application/json")


def _wants_json(accept: str) -> bool:
    """The SDK names JSON; an `<img>` names images, or nothing at all."""
    return "application/json" in accept.lower()
