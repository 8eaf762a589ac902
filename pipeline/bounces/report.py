"""What a message reports of one email, as plain values: what the readers give, and the adapter turns into an event."""

from enum import StrEnum

import msgspec


class Form(StrEnum):
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


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One recipient's part of a message."""

    form: Form
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
        final, original = self.final_recipient.casefold(), self.original_recipient.casefold()
        return "@" in final and "@" in original and final != original
