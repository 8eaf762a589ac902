"""Define the report that the readers of a message return and the adapter `bounce_mail` turns into an event."""

import re
from enum import StrEnum

import msgspec


class ReportForm(StrEnum):
    """The kind of mail."""

    DSN = "dsn"
    """A delivery status notification (RFC 3464 and 6533)."""
    TEXT = "text"
    """A bounce in plain text, as older MTAs write it."""
    FEEDBACK = "feedback"
    """A report by a recipient's provider of a complaint or similar (RFC 5965)."""
    REPLY = "reply"
    """An out-of-office message or another automatic reply (RFC 3834)."""
    RECEIPT = "receipt"
    """A message disposition notification (RFC 8098)."""
    UNSUBSCRIBE = "unsubscribe"
    """A mail to the address in our `List-Unsubscribe`."""
    MAIL = "mail"
    """Any other mail."""


class BounceReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a message that reports on one recipient."""

    form: ReportForm
    to: tuple[str, ...] = ()
    """The recipients of the message, from the envelope, else from the header fields."""
    references: tuple[str, ...] = ()
    """The Message-IDs of the original that it returns, or to which it replies."""
    identity: str = ""
    """A value that is the same for every copy of this message."""
    at: str = ""
    """The date of the message (RFC 5322), possibly malformed."""
    action: str = ""
    """The action (RFC 3464), or the type of feedback (RFC 5965)."""
    status: str = ""
    diagnostic: str = ""
    remote_mta: str = ""
    reporting_mta: str = ""
    final_recipient: str = ""
    original_recipient: str = ""
    writer: str = ""
    """The program that wrote a text, such as ``qmail`` or ``exim``; the User-Agent of feedback."""
    truncated: bool = False
    """Whether the message was longer than a record."""

    @property
    def forwarded(self) -> bool:
        """Return whether the report is about another address than the one to which we sent."""
        final, original = _unquoted(self.final_recipient), _unquoted(self.original_recipient)
        return "@" in final and "@" in original and final not in (original, _from_xtext(original))


def _unquoted(address: str) -> str:
    """Return an address in lower case and without quotation marks, which do not change it (RFC 5321 §4.1.2)."""
    local, at, domain = address.casefold().rpartition("@")
    if len(local) > 1 and local[0] == local[-1] == '"':
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local + at + domain


def _from_xtext(address: str) -> str:
    """Return the address with ``+2B`` and the like decoded (RFC 3461 §4), as some servers repeat our encoded ORCPT."""
    return re.sub(r"\+([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), address)
