"""Build the message and the SMTP envelope of an email from its request, content, brand and provider.

Called by the send job handler, once per attempt. Without I/O; only the clock is not pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.admin import Brand, Provider
from pipeline.content import links, mime, unsubscribe
from pipeline.content.message import MessageHeaders, OutgoingMessage
from pipeline.content.text import with_text_part
from pipeline.content.tokens import echo_tag, message_id_header, unsubscribe_address, unsubscribe_token, verp_address
from pipeline.dispatch.transports.base import SmtpEnvelope
from pipeline.dispatch.transports.correlation_headers import correlation_headers
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from topics.contents import MessageContent
from topics.record import Millis
from topics.requests import Mailbox, SendRequest

_PURPOSES: Final = ("track", "verp", "message-id", "unsubscribe", "echo")


@dataclass(frozen=True)
class _Signers:
    track: Signer
    verp: Signer
    message_id: Signer
    unsubscribe: Signer
    echo: Signer


class MessageWriter:
    """Builder of messages, with the secrets and addresses of this installation."""

    def __init__(self, settings: Settings, clock: Callable[[], Millis]) -> None:
        ring = secret_ring(settings)
        self._settings = settings
        self._clock = clock
        self._signers = _Signers(*[Signer(ring, purpose) for purpose in _PURPOSES])

    def message(
        self, request: SendRequest, content: MessageContent, brand: Brand, provider: Provider
    ) -> OutgoingMessage:
        """Return the message to send: the content with tracking, the sender and our headers."""
        tag = echo_tag(self._signers.echo, request.email_id)
        return OutgoingMessage(
            request,
            self._with_tracking(request, content, brand),
            sender=request.sender or self._sender(brand),
            message_id=message_id_header(self._signers.message_id, request.email_id, self._settings.mail_domain),
            date=self._clock(),
            echo_tag=tag,
            extra_headers=self._extra_headers(request, content, brand, provider, tag),
        )

    def envelope(self, message: OutgoingMessage) -> SmtpEnvelope:
        """Return the SMTP envelope of a message; its sender is a signed address (VERP) that identifies the email."""
        request = message.request
        sender = verp_address(self._signers.verp, request.email_id, self._settings.mail_domain)
        recipient = mime.with_ascii_domain(request.recipient)
        shown = [] if request.shown is None else [box.address for box in (*request.shown.to, *request.shown.cc)]
        addresses = (recipient, message.sender.address, *request.reply_to, *shown)
        return SmtpEnvelope(sender, recipient, mime.needs_smtputf8(*addresses))

    def _sender(self, brand: Brand) -> Mailbox:
        """Return the sender of requests that name none."""
        address = brand.sender_address or f"no-reply@{self._settings.mail_domain}"
        return Mailbox(address=address, name=brand.sender_name)

    def _with_tracking(self, request: SendRequest, content: MessageContent, brand: Brand) -> MessageContent:
        """Return the content with tracked links, the open pixel and, if the brand wants it, a trap link for bots."""
        if not content.html:
            text = links.with_tracking_hash(content.text, self._signers.track, request.email_id)
            return msgspec.structs.replace(content, text=text)
        tracking = (self._signers.track, request.email_id, self._settings.public_url)
        html, text = (
            links.with_tracking_hash(part, self._signers.track, request.email_id)
            # The text part is made of the HTML as the sender wrote it, so that no tracking URLs appear in it.
            for part in (content.html, with_text_part(content).text)
        )
        tracked = links.with_click_links(html, *tracking)
        if brand.trap_link:
            tracked = links.with_trap_link(tracked, *tracking)
        tracked = links.with_pixel(tracked, *tracking)
        return MessageContent(
            html=tracked,
            text=text,
            # No pixel: AMP for Email has no amp-pixel, and one unknown element makes the whole part invalid.
            amp=links.with_click_links(content.amp, *tracking),
            attachments=content.attachments,
            headers=content.headers,
        )

    def _extra_headers(
        self, request: SendRequest, content: MessageContent, brand: Brand, provider: Provider, tag: str
    ) -> MessageHeaders:
        """Return our headers beside those that every message has: correlation and List-Unsubscribe."""
        correlation = correlation_headers(provider.kind, request.email_id, tag) if provider.via == "smtp" else ()
        return correlation + (self._unsubscribe_headers(request, content) if brand.unsubscribe else ())

    def _unsubscribe_headers(self, request: SendRequest, content: MessageContent) -> MessageHeaders:
        signer, settings = self._signers.unsubscribe, self._settings
        address = unsubscribe_address(signer, request.email_id, settings.mail_domain)
        token = unsubscribe_token(signer, request.email_id)
        return unsubscribe.headers(content.headers, settings.public_url, token, address)
