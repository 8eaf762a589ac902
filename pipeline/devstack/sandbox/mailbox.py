"""The messages that the sandbox accepted, in memory and bounded; read by its provider, reader bot, API and pages."""

import json
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser, BytesParser
from email.utils import parseaddr
from functools import cached_property
from html.parser import HTMLParser
from itertools import islice
from typing import Any, Final

MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Bytes that all kept messages may have together, however few they are: attachments are large."""
MAX_PARSED_HEADER_CHARS: Final = 16_384
"""Length of the longest header that is parsed; Python's parser takes minutes for a hostile one of some megabytes."""

_HEADER_END: Final = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True)
class HistoryEntry:
    """Something that happened to a message after it was accepted."""

    at: int
    """Milliseconds since 1970."""
    text: str
    """What happened, for people."""
    event: str = ""
    """SendGrid's name of the event that this is evidence of; empty where it is evidence of none."""


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
    history: list[HistoryEntry] = field(default_factory=list)

    def record(self, at: int, text: str, event: str = "") -> None:
        """Add an entry to the history."""
        self.history.append(HistoryEntry(at, text, event))

    @property
    def event_history(self) -> list[str]:
        """Return the texts of the history: events posted and requests made."""
        return [entry.text for entry in self.history]

    @cached_property
    def mime(self) -> EmailMessage:
        """Return the parsed message; only its headers where parts are nested too deep for Python's parser."""
        try:
            return BytesParser(policy=policy.default).parsebytes(self.raw)
        except RecursionError:
            return self._header_block

    @cached_property
    def _header_block(self) -> EmailMessage:
        end = _HEADER_END.search(self.raw)
        return BytesHeaderParser(policy=policy.default).parsebytes(self.raw[: end.end()] if end else self.raw)

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers, decoded; one that is no valid header as it came."""
        return [(name, self._header(name, raw)) for name, raw in self._header_block.raw_items()]

    def header(self, name: str) -> str:
        """Return the first header of this name, decoded; empty where there is none."""
        raw_items = self._header_block.raw_items()
        raw = next((raw for key, raw in raw_items if key.lower() == name.lower()), "")
        return self._header(name, raw)

    def subject(self) -> str:
        """Return the subject; empty where there is none."""
        return self.header("Subject")

    def sender(self) -> tuple[str, str]:
        """Return brand and address of From.

        Mailfold writes the brand's name as From's display name; a sender without one is called by its domain.
        """
        name, address = parseaddr(self.header("From"))
        return name or address.rpartition("@")[2], address

    def parts(self, limit: int | None = None) -> list[EmailMessage]:
        """Return the parts that hold something, at most ``limit`` of them."""
        return list(islice((part for part in self.mime.walk() if not part.is_multipart()), limit))

    def html(self) -> str:
        """Return the text of the first HTML part; empty where there is none."""
        html_parts = (p for p in self.parts() if p.get_content_type() == "text/html" and not p.is_attachment())
        part = next(html_parts, None)
        return (decoded_text(part) or "") if part is not None else ""

    def _header(self, name: str, raw: str) -> str:
        if len(raw) > MAX_PARSED_HEADER_CHARS:
            return "".join(raw.splitlines())
        try:
            return str(self._header_block.policy.header_fetch_parse(name, raw))
        except Exception:  # Python's header parser raises many kinds of errors on what senders write
            return raw


def decoded_text(part: EmailMessage) -> str | None:
    """Return a text part's text; None where its character set is unknown or its headers make no sense."""
    try:
        return str(part.get_content())
    except Exception:  # Python's email package raises many kinds of errors on what senders write
        return None


def correlation_data(raw: bytes) -> tuple[str, dict[str, Any]]:
    """Return the Message-ID and the unique arguments of ``X-SMTPAPI``.

    Only the headers are parsed, because this is done for every message that arrives.
    """
    end = _HEADER_END.search(raw)
    headers = BytesHeaderParser(policy=policy.compat32).parsebytes(raw[: end.end()] if end else raw)
    try:
        smtpapi = json.loads(str(headers.get("X-SMTPAPI", "{}")).replace("\r\n", "").replace("\n", ""))
        unique_args = smtpapi.get("unique_args", {})
    except (ValueError, AttributeError, RecursionError):
        unique_args = {}
    return str(headers.get("Message-ID", "")).strip(), unique_args if isinstance(unique_args, dict) else {}


class SandboxMailbox:
    """The newest messages by number; the oldest are removed when there are too many or they are too large."""

    def __init__(self, keep: int, keep_bytes: int = MAX_KEPT_BYTES) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._messages: OrderedDict[int, SandboxMessage] = OrderedDict()
        self._bytes = 0
        self.received = 0
        """Messages accepted since the start; the number of the last one."""

    def add(self, message: SandboxMessage) -> None:
        """Keep a message and remove the oldest ones that exceed the limits."""
        self._messages[message.number] = message
        self._bytes += len(message.raw)
        while len(self._messages) > self._keep or (self._bytes > self._keep_bytes and len(self._messages) > 1):
            _, oldest = self._messages.popitem(last=False)
            self._bytes -= len(oldest.raw)

    def next_number(self) -> int:
        """Return the number for the next message."""
        self.received += 1
        return self.received

    def get(self, number: int) -> SandboxMessage | None:
        """Return the message; None if it is not kept."""
        return self._messages.get(number)

    def newest(self) -> Iterator[SandboxMessage]:
        """Return the kept messages, newest first."""
        return reversed(self._messages.values())

    @property
    def count(self) -> int:
        """Return the number of kept messages."""
        return len(self._messages)

    def page(self, before: int, limit: int) -> tuple[list[SandboxMessage], bool]:
        """Return at most ``limit`` messages with a number below ``before``, newest first, and whether more follow."""
        page = list(islice((message for message in self.newest() if message.number < before), limit + 1))
        return page[:limit], len(page) > limit

    def clear(self) -> int:
        """Delete all messages and return how many there were."""
        count = len(self._messages)
        self._messages.clear()
        self._bytes = 0
        return count


class HtmlLinks(HTMLParser):
    """The images and links of an HTML part, as a mail program would load and follow them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the address of an image or a link."""
        name, addresses = {"img": ("src", self.images), "a": ("href", self.links)}.get(tag, ("", self.links))
        addresses.extend(value for key, value in attrs if key == name and value)
