"""What is asked of the history in, the page and the place to go on from out. Pure.

A listing is a point in time: every page shows each email as it was at ``as_of``, so an email that
changes while somebody pages is seen once, in its state of then. The order is that of ``sent_at``,
newest first, and the id.

That time is the log's own (:mod:`projections.steps`), and ``as_of`` is never later than what is
projected of every partition. So a change that is still on its way, late or stamped by a slow
clock, is valid after it, and no page that was shown can become untrue.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from topics.readings import ListedState
from topics.record import EmailId, Millis
from topics.states import EmailState

PAGE_MAX_EMAILS: Final = 100
"""Emails on a page."""


class HistoryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which emails are wanted; empty wants all. An address wants all of its emails, whatever else is asked."""

    brand_uuid: str = ""
    listed: ListedState | None = None
    recipient: str = ""


class HistoryPosition(msgspec.Struct, frozen=True):
    """The last email seen; the listing goes on behind it."""

    sent_at: Millis
    email_id: EmailId


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of one tenant's listing."""

    tenant: str
    filter: HistoryFilter
    as_of: Millis
    start_after: HistoryPosition | None = None


class HistoryRow(msgspec.Struct, frozen=True):
    """An email as it was at the time asked for."""

    position: HistoryPosition
    state: EmailState


class HistoryPage(msgspec.Struct, frozen=True):
    """What is shown, and where it goes on; None at the end."""

    rows: Sequence[HistoryRow]
    next_position: HistoryPosition | None


def point_in_time(after: int | None, latest: Millis) -> Millis:
    """The moment that ``after``, in whole seconds, names: its second's end, but never beyond what is projected.

    A second is listed whole or not at all: what is shown as updated at ``after`` is not *after* it.
    """
    return latest if after is None else min(after * 1000 + 999, latest)


def page_of_rows(found: Sequence[HistoryRow]) -> HistoryPage:
    """A page of up to PAGE + 1 rows: whether there is one more says whether it goes on."""
    shown = found[:PAGE_MAX_EMAILS]
    return HistoryPage(shown, shown[-1].position if len(found) > PAGE_MAX_EMAILS else None)
