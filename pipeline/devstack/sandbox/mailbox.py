"""The last messages taken: SMTP transactions in; their parts, links and correlation data out. Bounded."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser, BytesParser
from functools import cached_property
from html.parser import HTMLParser
from typing import Any, Final

MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""However many messages may be kept, no more than this together: attachments are large."""


@dataclass(frozen=True)
class SandboxMessage:
    """One accepted message and its envelope."""

    number: int
    queue_id: str
    received_at: int
    mail_from: str
    recipients: tuple[str, ...]
    tls: bool
    raw: bytes = field(repr=False)
    event_history: list[str] = field(default_factory=list)
    """What happened since, for people: events posted, deeds done."""

    @cached_property
    def mime(self) -> EmailMessage:
        """The parsed message."""
        return BytesParser(policy=policy.default).parsebytes(self.raw)

    def headers(self) -> list[tuple[str, str]]:
        """The headers, decoded; as they came where they are no headers that can be parsed."""
        return [(name, self._header(name, raw)) for name, raw in self.mime.raw_items()]

    def subject(self) -> str:
        """The subject; empty where there is none."""
        return next((value for name, value in self.headers() if name.lower() == "subject"), "")

    def parts(self) -> list[EmailMessage]:
        """The parts that hold something."""
        return [part for part in self.mime.walk() if not part.is_multipart()]

    def html(self) -> str:
        """The HTML part's text; empty where there is none."""
        found = (part for part in self.parts() if part.get_content_type() == "text/html" and not part.is_attachment())
        part = next(found, None)
        return (decoded_text(part) or "") if part is not None else ""

    def _header(self, name: str, raw: str) -> str:
        try:
            return str(self.mime.policy.header_fetch_parse(name, raw))
        except Exception:  # Python's header parser raises this and that on what senders write
            return raw


def decoded_text(part: EmailMessage) -> str | None:
    """A text part's text; None in a character set that nobody knows."""
    try:
        return str(part.get_content())
    except (LookupError, ValueError):
        return None


def correlation_data(raw: bytes) -> tuple[str, dict[str, Any]]:
    """Message-ID and the unique arguments of ``X-SMTPAPI``, read from the headers alone: every message pays this."""
    headers = BytesHeaderParser(policy=policy.compat32).parsebytes(raw)
    try:
        given = json.loads(str(headers.get("X-SMTPAPI", "{}")).replace("\r\n", "").replace("\n", ""))
        unique_args = given.get("unique_args", {})
    except (ValueError, AttributeError):
        unique_args = {}
    return str(headers.get("Message-ID", "")).strip(), unique_args if isinstance(unique_args, dict) else {}


class SandboxMailbox:
    """The newest messages, by number; the oldest leave when there are too many or they are too large."""

    def __init__(self, keep: int, keep_bytes: int = MAX_KEPT_BYTES) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._messages: OrderedDict[int, SandboxMessage] = OrderedDict()
        self._bytes = 0
        self.received = 0
        """How many were ever taken; the last one's number."""

    def add(self, message: SandboxMessage) -> None:
        """Keep a message."""
        self._messages[message.number] = message
        self._bytes += len(message.raw)
        while len(self._messages) > self._keep or (self._bytes > self._keep_bytes and len(self._messages) > 1):
            _, oldest = self._messages.popitem(last=False)
            self._bytes -= len(oldest.raw)

    def next_number(self) -> int:
        """The number of the message being taken."""
        self.received += 1
        return self.received

    def get(self, number: int) -> SandboxMessage | None:
        """The message, if it is still here."""
        return self._messages.get(number)

    def newest(self) -> Iterator[SandboxMessage]:
        """All that are here, newest first."""
        return reversed(self._messages.values())

    def clear(self) -> int:
        """Forget all; how many there were."""
        gone = len(self._messages)
        self._messages.clear()
        self._bytes = 0
        return gone


class HtmlLinks(HTMLParser):
    """What a mail program finds in an HTML part: images to load, links to follow."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses of images and links."""
        name, into = {"img": ("src", self.images), "a": ("href", self.links)}.get(tag, ("", self.links))
        into.extend(value for key, value in attrs if key == name and value)
