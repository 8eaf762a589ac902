"""Queries and pages of the history API: filters that combine, three orders, and the feed of changes. Pure.

Like :mod:`projections.history` a page shows each email as it was at ``as_of``, which is never later than what every
partition has projected; so a page can't become wrong after it was shown. :mod:`projections.email_queries` answers the
queries; the routes of `/api/v1`, exports and the console make them.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from projections.email_facets import EmailFact, fact_bit
from topics.readings import EmailStatus
from topics.record import EmailId, Millis
from topics.states import EmailState

PAGE_MAX_EMAILS: Final = 500
DEFAULT_PAGE_EMAILS: Final = 100


class EmailOrder(StrEnum):
    """The time by which a listing is ordered; emails without that time are not in it."""

    ACCEPTED = "accepted"
    SENT = "sent"
    UPDATED = "updated"
    """When the version was projected, by our clock."""


class OpenedBy(StrEnum):
    """Who opened an email."""

    HUMAN = "human"
    MACHINE = "machine"
    NOBODY = "nobody"


class EmailFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A filter of emails: all fields that are set must match; of several values in one field, one."""

    brand_uuid: str | None = None
    statuses: tuple[EmailStatus, ...] = ()
    facts: tuple[EmailFact, ...] = ()
    """Kinds of facts that count for the email, all of them."""
    without: tuple[EmailFact, ...] = ()
    """Kinds of facts of which none counts for the email."""
    opened_by: OpenedBy | None = None
    accepted_from: Millis | None = None
    """Ranges include their beginning, not their end."""
    accepted_to: Millis | None = None
    sent_from: Millis | None = None
    sent_to: Millis | None = None
    updated_from: Millis | None = None
    updated_to: Millis | None = None
    dialect: str | None = None
    provider: str | None = None
    template: str | None = None
    message_id: str | None = None
    identity: str | None = None
    recipient: str | None = None
    """In the spelling of the tables."""
    recipient_domain: str | None = None
    activity_id: str | None = None
    action_group_id: str | None = None
    action_id: str | None = None
    trigger_hash: str | None = None
    user_id: str | None = None
    bounce_class: str | None = None
    bounce_code: str | None = None
    suppressed_reason: str | None = None

    @property
    def required_facts(self) -> int:
        """Return the bits of the facts that an email must have."""
        opened = {OpenedBy.HUMAN: EmailFact.OPENED, OpenedBy.MACHINE: EmailFact.OPENED_MACHINE}
        own = [opened[self.opened_by]] if self.opened_by in opened else []
        return _bits((*self.facts, *own))

    @property
    def excluded_facts(self) -> int:
        """Return the bits of the facts that an email must not have."""
        nobody = (EmailFact.OPENED, EmailFact.OPENED_MACHINE) if self.opened_by is OpenedBy.NOBODY else ()
        return _bits((*self.without, *nobody))


class EmailPosition(msgspec.Struct, frozen=True):
    """The position of an email in a listing: the time of its order, and its id."""

    at: Millis
    email_id: EmailId


class EmailQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of one tenant's emails."""

    tenant: str
    as_of: Millis
    filter: EmailFilter = EmailFilter()
    order: EmailOrder = EmailOrder.ACCEPTED
    descending: bool = True
    limit: int = DEFAULT_PAGE_EMAILS
    start_after: EmailPosition | None = None


class EmailRow(msgspec.Struct, frozen=True):
    """An email as it was at a moment."""

    position: EmailPosition
    state: EmailState
    version: int
    valid_from: Millis


class EmailPage(msgspec.Struct, frozen=True):
    """The emails of one page and the position after it."""

    rows: Sequence[EmailRow]
    next_position: EmailPosition | None
    """None on the last page."""


class EmailCount(msgspec.Struct, frozen=True):
    """The number of emails that a filter selects."""

    emails: int
    is_exact: bool
    """False if there are at least so many."""


class ChangeFeed(msgspec.Struct, frozen=True):
    """The changes of one tenant's emails, or of one of its brands."""

    tenant: str
    brand_uuid: str | None = None


class ChangePosition(msgspec.Struct, frozen=True):
    """The position after a version of an email in the feed of changes."""

    valid_from: Millis
    email_id: EmailId
    version: int


class ChangeRow(msgspec.Struct, frozen=True):
    """A version of an email, as it became valid."""

    position: ChangePosition
    state: EmailState


class ChangePage(msgspec.Struct, frozen=True):
    """The changes of one page of the feed."""

    rows: Sequence[ChangeRow]
    next_position: ChangePosition | None
    """The position from which to go on at once; None if the feed is read to its end."""


def page_of_emails(rows: Sequence[EmailRow], limit: int) -> EmailPage:
    """Return the page of up to ``limit`` + 1 rows; the extra row shows that another page follows."""
    page_rows = rows[:limit]
    return EmailPage(page_rows, page_rows[-1].position if len(rows) > limit else None)


def position_after(moment: Millis) -> ChangePosition:
    """Return the position after all changes that became valid at ``moment`` or earlier."""
    return ChangePosition(moment, EmailId("ffffffff-ffff-ffff-ffff-ffffffffffff"), 2**31 - 1)


def _bits(facts: Sequence[EmailFact]) -> int:
    bits = 0
    for fact in facts:
        bits |= fact_bit(fact)
    return bits
