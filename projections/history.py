"""Queries and pages of the history listing. Pure; `postgres` answers the queries, the history routes make them.

A listing shows a point in time: every page has each email as it was at ``as_of``, so an email that changes between two
pages appears once, in its state at ``as_of``. The order is ``sent_at``, newest first, then the id.

Time here is the log's own (:mod:`projections.row_changes`), and ``as_of`` is never later than what every partition has
projected. So a change that is projected later, even one with an older timestamp, becomes valid after ``as_of``, and no
page can become wrong after it was shown.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from topics.readings import ListedState
from topics.record import EmailId, Millis
from topics.states import EmailState

PAGE_MAX_EMAILS: Final = 100
"""Emails on a page, at most."""


class HistoryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """A filter of emails; empty selects all. An address selects all its emails and disables the other fields."""

    brand_uuid: str = ""
    listed: ListedState | None = None
    recipient: str = ""


class HistoryPosition(msgspec.Struct, frozen=True):
    """The position after an email in a listing's order."""

    sent_at: Millis
    email_id: EmailId


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of one tenant's listing."""

    tenant: str
    filter: HistoryFilter
    as_of: Millis
    start_after: HistoryPosition | None = None


class HistoryRow(msgspec.Struct, frozen=True):
    """An email as it was at the query's ``as_of``."""

    position: HistoryPosition
    state: EmailState


class HistoryPage(msgspec.Struct, frozen=True):
    """The rows of one page and the position of the next one."""

    rows: Sequence[HistoryRow]
    next_position: HistoryPosition | None
    """None on the last page."""


def point_in_time(after: int | None, latest: Millis) -> Millis:
    """Return the end of the second ``after``, but never more than ``latest``, the projected time.

    A second is listed completely or not at all: an email that was updated in second ``after`` is not *after* it.
    """
    return latest if after is None else min(after * 1000 + 999, latest)


def page_of_rows(rows: Sequence[HistoryRow]) -> HistoryPage:
    """Return the page of up to `PAGE_MAX_EMAILS` + 1 rows; the extra row shows that another page follows."""
    page_rows = rows[:PAGE_MAX_EMAILS]
    return HistoryPage(page_rows, page_rows[-1].position if len(rows) > PAGE_MAX_EMAILS else None)
