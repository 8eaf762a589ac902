"""What a message reports of one email, as plain values: what the readers give, and the adapter turns into an event."""

import re
from enum import StrEnum

import msgspec


class ReportForm(StrEnum):
    """What kind of mail it is."""

    DSN = "dsn"
    """RFC 3464 and 6533."""
    TEXT = "text"
    """A bounce in words only, as MTAs wrote them before, and some still do."""
    FEEDBACK = "feedback"
    """RFC 5965: a recipient's provider tells of a complaint, or of something like it."""
    REPLY = "reply"
    """RFC 3834: an out-of-office, or another answer by a machine."""
    RECEIPT = "receipt"
    """RFC 8098."""
    UNSUBSCRIBE = "unsubscribe"
    """A mail to the address in our `List-Unsubscribe`."""
    MAIL = "mail"
    """Anything else."""


class BounceReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One recipient's part of a message."""

    form: ReportForm
    to: tuple[str, ...] = ()
    """Whom the message came to: envelope first, header fields where it says nothing."""
    references: tuple[str, ...] = ()
    """The Message-IDs of the original that it returns, or that it answers."""
    identity: str = ""
    """What makes this message itself, however often and by whichever road it comes."""
    at: str = ""
    """Its own date (RFC 5322), maybe nonsense."""
    action: str = ""
    """RFC 3464's word, or the feedback's type (RFC 5965)."""
    status: str = ""
    diagnostic: str = ""
    remote_mta: str = ""
    reporting_mta: str = ""
    final_recipient: str = ""
    original_recipient: str = ""
    writer: str = ""
    """Whose words they are, of a text: ``qmail``, ``exim``…; of feedback: its User-Agent."""
    truncated: bool = False
    """The message was longer than a record."""

    @property
    def forwarded(self) -> bool:
        """Whether what is reported happened at another address than the one we wrote to."""
        final, original = _unquoted(self.final_recipient), _unquoted(self.original_recipient)
        return "@" in final and "@" in original and final not in (original, _from_xtext(original))


def _unquoted(address: str) -> str:
    """Return an address without case and without quotation marks, which make no other address (RFC 5321 §4.1.2)."""
    local, at, domain = address.casefold().rpartition("@")
    if len(local) > 1 and local[0] == local[-1] == '"':
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local + at + domain


def _from_xtext(address: str) -> str:
    """Return what ``+2B`` and the like stand for (RFC 3461 §4): some servers repeat our ORCPT as we wrote it."""
    return re.sub(r"\+([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), address)
