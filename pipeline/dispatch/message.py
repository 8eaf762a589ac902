"""A request, its content, its brand and provider in; the message and its envelope out. Pure but for the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.admin import Brand, Provider
from pipeline.content import links, mime, unsubscribe
from pipeline.content.message import MessageHeaders, OutgoingMessage
from pipeline.content.text import with_text_part
from pipeline.content.tokens import message_id_header, unsubscribe_address, unsubscribe_token, verp_address
from pipeline.dispatch.transports.base import SmtpEnvelope
from pipeline.dispatch.transports.correlation_headers import correlation_header
from pipeline.runtime.signing import Signer
from pipeline.settings import Settings
from topics.contents import MessageContent
from topics.record import Millis
from topics.requests import Mailbox, SendRequest

_PURPOSES: Final = ("track", "verp", "message-id", "unsubscribe")


@dataclass(frozen=True)
class _Signers:
    track: Signer
    verp: Signer
    message_id: Signer
    unsubscribe: Signer


class MessageWriter:
    """Writes messages as an installation's settings and a brand's row want them."""

    def __init__(self, settings: Settings, clock: Callable[[], Millis]) -> None:
        secret = settings.secret.get_secret_value()
        self._settings = settings
        self._clock = clock
        self._signers = _Signers(*[Signer(secret, purpose) for purpose in _PURPOSES])

    def letter(
        self, request: SendRequest, content: MessageContent, brand: Brand, provider: Provider
    ) -> OutgoingMessage:
        """What the email says, as it goes out."""
        return OutgoingMessage(
            request,
            self._tracked(request, content, brand),
            sender=request.sender or self._sender(brand),
            message_id=message_id_header(self._signers.message_id, request.email_id, self._settings.mail_domain),
            date=self._clock(),
            extra_headers=self._headers(request, content, brand, provider),
        )

    def envelope(self, letter: OutgoingMessage) -> SmtpEnvelope:
        """Whom bounces go to, provably ours, and whom the message goes to."""
        request = letter.request
        sender = verp_address(self._signers.verp, request.email_id, self._settings.mail_domain)
        recipient = mime.with_ascii_domain(request.recipient)
        shown = [] if request.shown is None else [box.address for box in (*request.shown.to, *request.shown.cc)]
        written = (recipient, letter.sender.address, *request.reply_to, *shown)
        return SmtpEnvelope(sender, recipient, mime.needs_smtputf8(*written))

    def _sender(self, brand: Brand) -> Mailbox:
        """Whom it is from where the request names nobody."""
        address = brand.sender_address or f"no-reply@{self._settings.mail_domain}"
        return Mailbox(address=address, name=brand.sender_name)

    def _tracked(self, request: SendRequest, content: MessageContent, brand: Brand) -> MessageContent:
        """The content with its links and pixel, and a trap for robots where the brand sets one."""
        if not content.html:
            text = links.with_tracking_hash(content.text, self._signers.track, request.email_id)
            return msgspec.structs.replace(content, text=text)
        where = (self._signers.track, request.email_id, self._settings.public_url)
        html, text = (
            links.with_tracking_hash(part, self._signers.track, request.email_id)
            # The text for people comes from what the sender wrote, without our addresses in it.
            for part in (content.html, with_text_part(content).text)
        )
        tracked = links.with_click_links(html, *where)
        if brand.trap_link:
            tracked = links.with_trap_link(tracked, *where)
        tracked = links.with_pixel(tracked, *where)
        return MessageContent(
            html=tracked,
            text=text,
            # No pixel: AMP for email knows no amp-pixel, and one foreign element voids the whole part.
            amp=links.with_click_links(content.amp, *where),
            attachments=content.attachments,
            headers=content.headers,
        )

    def _headers(
        self, request: SendRequest, content: MessageContent, brand: Brand, provider: Provider
    ) -> MessageHeaders:
        """Headers of ours, beside those that every message has."""
        echoed = correlation_header(provider.kind, request.email_id) if provider.via == "smtp" else ()
        return echoed + (self._unsubscribe(request, content) if brand.unsubscribe else ())

    def _unsubscribe(self, request: SendRequest, content: MessageContent) -> MessageHeaders:
        signer, settings = self._signers.unsubscribe, self._settings
        address = unsubscribe_address(signer, request.email_id, settings.mail_domain)
        token = unsubscribe_token(signer, request.email_id)
        return unsubscribe.headers(content.headers, settings.public_url, token, address)
