"""A request, its content, its brand and provider in; the message and its envelope out. Pure but for the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.admin import Brand, Provider
from pipeline.content import links, mime, unsubscribe
from pipeline.content.text import text_of
from pipeline.settings import Settings
from pipeline.signing import Signer
from pipeline.smtp import Envelope
from pipeline.tokens import message_id_header, unsubscribe_address, unsubscribe_token, verp
from topics.contents import Content
from topics.record import Millis
from topics.requests import Mailbox, SendRequest

_ECHO: Final = '{{"unique_args": {{"mailfold_email_id": "{}"}}}}'
"""SendGrid gives its `unique_args` back with every event (X-SMTPAPI header)."""

_PURPOSES: Final = ("track", "verp", "message-id", "unsubscribe")

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Signers:
    track: Signer
    verp: Signer
    message_id: Signer
    unsubscribe: Signer


class Writer:
    """Writes messages as an installation's settings and a brand's row want them."""

    def __init__(self, settings: Settings, clock: Callable[[], Millis]) -> None:
        secret = settings.secret.get_secret_value()
        self._settings = settings
        self._clock = clock
        self._signers = _Signers(*[Signer(secret, purpose) for purpose in _PURPOSES])

    def message(self, request: SendRequest, content: Content, brand: Brand, provider: Provider) -> bytes:
        """The whole message."""
        return mime.render(
            request,
            self._tracked(request, content, brand),
            sender=request.sender or Mailbox(address=f"no-reply@{self._settings.mail_domain}"),
            message_id=message_id_header(self._signers.message_id, request.email_id, self._settings.mail_domain),
            date=self._clock(),
            extra=self._headers(request, content, brand, provider),
        )

    def envelope(self, request: SendRequest) -> Envelope:
        """Whom bounces go to, provably ours, and whom the message goes to."""
        sender = verp(self._signers.verp, request.email_id, self._settings.mail_domain)
        recipient = mime.on_the_wire(request.recipient)
        shown = (request.sender.address,) if request.sender else ()
        return Envelope(sender, recipient, mime.needs_smtputf8(recipient, *shown, *request.reply_to))

    def _tracked(self, request: SendRequest, content: Content, brand: Brand) -> Content:
        """The content with its links and pixel, and a trap for robots where the brand sets one."""
        if not content.html:
            return content
        where = (self._signers.track, request.email_id, self._settings.public_url)
        own = links.with_tracking_hash(content.html, self._signers.track, request.email_id)
        tracked = links.with_clicks(own, *where)
        if brand.trap_link:
            tracked = links.with_trap(tracked, *where)
        tracked = links.with_pixel(tracked, *where)
        # The text for people comes from what the sender wrote, without our addresses in it.
        text = content.text or text_of(content.html)
        return Content(
            html=tracked,
            text=text,
            # No pixel: AMP for email knows no amp-pixel, and one foreign element voids the whole part.
            amp=links.with_clicks(content.amp, *where),
            attachments=content.attachments,
            headers=content.headers,
        )

    def _headers(self, request: SendRequest, content: Content, brand: Brand, provider: Provider) -> Headers:
        """Headers of ours, beside those that every message has."""
        return _echo(provider, request) + (self._unsubscribe(request, content) if brand.unsubscribe else ())

    def _unsubscribe(self, request: SendRequest, content: Content) -> Headers:
        signer, settings = self._signers.unsubscribe, self._settings
        address = unsubscribe_address(signer, request.email_id, settings.mail_domain)
        token = unsubscribe_token(signer, request.email_id)
        return unsubscribe.headers(content.headers, settings.public_url, token, address)


def _echo(provider: Provider, request: SendRequest) -> Headers:
    if provider.kind not in ("sendgrid", "sandbox"):
        return ()
    return (("X-SMTPAPI", _ECHO.format(request.email_id)),)
