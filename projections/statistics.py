"""Computes what emails add to the rollups and what a change moves in them. Pure; the sink writes it.

An email adds to a cell a number for each counter, and all its numbers follow from its state. A change takes out what
the counted state added and adds what the new one does. So a cell is always the sum over the emails, in whatever order
and batches their changes came, and a correction moves figures by itself.

There are two views, in cells of their own: by cohort, where all of an email is in the quarter hour in which it was
accepted, and by event, where each number is in the quarter hour in which its fact happened first. Quarter hours,
because every time zone of today begins its days at one (India at half past, Nepal at a quarter to).

The cells of an email have its group: what its request says. A group is decided once, when the request is first known,
so that it does not depend on where batches end. Requests choose most of a group's values freely, so their number is
bounded (:data:`MAX_CAMPAIGNS`); what comes later is counted as `other`.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from projections.email_facets import RequestFacets, bounce_class_of, lower_case_address, provider_of, request_facets
from projections.metric_definitions import COUNTERS, TIME_BUCKETS, TIME_METRICS, time_bucket
from projections.pending_conversions import FASTTRACK_DIALECT
from projections.text import storable_text
from topics.changes import EmailChange, Tick
from topics.conversions import ConversionOutcome
from topics.events import BounceClass
from topics.ids import id_hash, short_id
from topics.readings import effective_state, ever_owed_words, mark_name
from topics.record import EmailId, Millis
from topics.requests import SendRequest
from topics.states import EmailState, EventDetail, Mark

SLOT_MS: Final = 15 * 60 * 1000
"""Milliseconds of a cell's quarter hour; slots are counted from the Unix epoch, UTC."""
MAX_SLOT: Final = 2**31 - 1

MAX_CAMPAIGNS: Final = 1_000
"""Campaigns that are counted apart, of one tenant, partition and month; the first ones in the order of the log."""
OTHER: Final = "other"
"""The value under which is counted what has no value of its own."""

MAILBOX_DOMAINS: Final = frozenset(
    {
        *("gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "hotmail.co.uk"),
        *("hotmail.fr", "hotmail.it", "hotmail.es", "hotmail.de", "outlook.de", "outlook.fr", "outlook.es"),
        *("live.co.uk", "live.nl", "live.se", "yahoo.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de", "yahoo.it"),
        *("yahoo.es", "yahoo.co.in", "yahoo.co.jp", "yahoo.com.br", "ymail.com", "aol.com", "icloud.com", "me.com"),
        *("mac.com", "gmx.de", "gmx.net", "gmx.at", "gmx.com", "web.de", "t-online.de", "freenet.de", "mail.ru"),
        *("yandex.ru", "orange.fr", "wanadoo.fr", "free.fr", "laposte.net", "sfr.fr", "libero.it", "virgilio.it"),
        *("comcast.net", "verizon.net", "att.net", "btinternet.com", "sky.com", "ziggo.nl", "kpnmail.nl", "telia.com"),
        *("seznam.cz", "wp.pl", "o2.pl", "onet.pl", "interia.pl", "uol.com.br", "bol.com.br", "terra.com.br", "qq.com"),
        *("163.com", "126.com", "naver.com", "daum.net", "docomo.ne.jp", "rediffmail.com", "proton.me"),
        *("protonmail.com", "mail.com", "fastmail.com", "zoho.com"),
    }
)
"""Recipients' domains that are counted apart; all others together are `other`. A list and not a ranking: a ranking by
count would depend on when it was made, and a rebuild would give other figures. A change of it needs a rebuild."""

_SENT: Final = ("sent", "queued", "delayed")
_DEFERRED: Final = ("deferred", "delayed")
_ATTEMPTED: Final = (
    *("sent", "queued", "delayed", "deferred", "delivered", "bounced", "complained"),
    *("opened", "opened_machine", "clicked", "clicked_machine"),
)
_OF_ONE_MARK: Final = (
    *(("accepted", "accepted"), ("delivered", "delivered"), ("dropped", "dropped"), ("failed", "failed")),
    *(("complained", "complained"), ("unsubscribed", "unsubscribed")),
    *(("opened_human", "opened"), ("opened_machine", "opened_machine")),
    *(("clicked_human", "clicked"), ("clicked_machine", "clicked_machine")),
)
"""Counters that count an email for one mark, with the mark's name."""
_OF_SEVERAL_MARKS: Final = (
    *(("attempted", _ATTEMPTED), ("sent", _SENT), ("deferred", _DEFERRED)),
    *(("opened", ("opened", "opened_machine")), ("clicked", ("clicked", "clicked_machine"))),
)
_OF_EVENTS: Final = (
    *(("opens_human", "opened"), ("opens_machine", "opened_machine")),
    *(("clicks_human", "clicked"), ("clicks_machine", "clicked_machine")),
)
_OF_TIMES: Final = tuple((metric.name, metric.fact) for metric in TIME_METRICS.values())
_MARKS: Final = ("accepted", *_ATTEMPTED, "dropped", "failed", "unsubscribed")
_OUTCOME_COUNTERS: Final = {
    ConversionOutcome.DELIVERED: "conversions_told",
    ConversionOutcome.REFUSED: "conversions_refused",
    ConversionOutcome.GIVEN_UP: "conversions_dead",
}

NUMBERS: Final = (*COUNTERS, *(f"{name}/{bucket}" for name in TIME_METRICS for bucket in range(TIME_BUCKETS)))
"""The names of a cell's numbers, in order: the counters, then the buckets of the times."""
_INDEX: Final = {name: index for index, name in enumerate(NUMBERS)}


class StatisticsGroup(msgspec.Struct, frozen=True):
    """The values that the emails of a group have in common."""

    tenant: str
    brand: str
    dialect: str
    template: str
    recipient_domain: str
    activity_id: str
    action_group_id: str

    @property
    def group_id(self) -> int:
        """Return the number of the group, the same in every database: 63 bits of a hash of its values."""
        return id_hash("".join([f"|{len(value)}:{value}" for value in msgspec.structs.astuple(self)]))


class StatisticsCampaign(NamedTuple):
    """The values of a group that requests choose freely."""

    brand: str
    template: str
    activity_id: str
    action_group_id: str


class CampaignPeriod(NamedTuple):
    """The emails among which campaigns are numbered: those of one tenant accepted in one month (UTC)."""

    tenant: str
    month: int
    """Years since 0 × 12 + months."""


class StatisticsCell(NamedTuple):
    """The key of a row of the rollup, without its partition."""

    tenant: str
    by_event: bool
    slot: int
    group_id: int
    provider: str


class CountedState(msgspec.Struct, frozen=True):
    """The part of an email that is counted: its state then, and its group; nothing while its request is not known."""

    group_id: int | None = None
    state: EmailState | None = None


class EmailContribution(msgspec.Struct, frozen=True):
    """The numbers that one email adds, and their place."""

    tenant: str
    accepted_at: Millis
    provider: str
    numbers: "Contributed"


Times = dict[tuple[str, str], tuple[int, Millis]]
Contributed = Mapping[tuple[str, str], tuple[int, Millis]]
"""The number and time of each thing that an email adds, by a name of :data:`NUMBERS` and a word that keeps several of
that name apart."""


class StatisticsChanges(msgspec.Struct):
    """The effect of one partition's batch on the rollups."""

    cells: dict[StatisticsCell, list[int]] = msgspec.field(default_factory=dict)
    """The numbers that are added to each cell, in the order of :data:`NUMBERS`."""
    group_ids: dict[EmailId, int | None] = msgspec.field(default_factory=dict)
    """The group of each email whose row is written."""
    groups: dict[int, StatisticsGroup] = msgspec.field(default_factory=dict)
    """Groups that emails were counted in for the first time, some of them perhaps known."""
    campaigns: dict[CampaignPeriod, list[StatisticsCampaign]] = msgspec.field(default_factory=dict)
    """New campaigns."""


def first_requests(batch: Sequence[EmailChange | Tick], counted: Mapping[EmailId, CountedState]) -> list[SendRequest]:
    """Return the requests by which emails get their groups, in the order of the log."""
    requests: dict[EmailId, SendRequest] = {}
    for change in batch:
        if isinstance(change, EmailChange) and change.state.request is not None and change.email_id not in requests:
            known = counted.get(change.email_id)
            if known is None or known.group_id is None:
                requests[change.email_id] = change.state.request
    return list(requests.values())


def campaign_period(request: SendRequest) -> CampaignPeriod:
    """Return the period in which a request's campaign is numbered."""
    seconds = min(max(request.recorded_at, 0) // 1000, _LAST_SECOND)
    month = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return CampaignPeriod(request.tenant, month.year * 12 + month.month - 1)


_LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999, the last that dates can hold."""


class KnownCampaigns(NamedTuple):
    """What is known of a period's campaigns, as far as a batch needs it."""

    total: int = 0
    """The number of all campaigns of the period that are counted apart."""
    campaigns: frozenset[StatisticsCampaign] = frozenset()
    """Those of them that the batch's requests ask for."""
    brands: frozenset[str] = frozenset()
    """The brands that the batch's requests ask for and that have campaigns."""


def wanted_campaign(request: SendRequest) -> StatisticsCampaign:
    """Return the campaign under which a request's email is counted if there is room."""
    return _campaign(request, request_facets(request, lower_case_address))


def _campaign(request: SendRequest, facets: RequestFacets) -> StatisticsCampaign:
    return StatisticsCampaign(
        brand=short_id(storable_text(request.brand)),
        template=facets.template or "",
        activity_id=facets.activity_id or "",
        action_group_id=facets.action_group_id or "",
    )


class CampaignBook:
    """The campaigns that are counted apart, period by period; admits new ones until there are too many."""

    def __init__(self, known: Mapping[CampaignPeriod, KnownCampaigns], most: int = MAX_CAMPAIGNS) -> None:
        self._totals = {period: each.total for period, each in known.items()}
        self._campaigns = {period: set(each.campaigns) for period, each in known.items()}
        self._brands = {period: set(each.brands) for period, each in known.items()}
        self._most = most
        self.added: dict[CampaignPeriod, list[StatisticsCampaign]] = {}

    def group_of(self, request: SendRequest) -> StatisticsGroup:
        """Return the group of an email with this request, and admit its campaign if there is room."""
        facets = request_facets(request, lower_case_address)
        campaign = self._admit(campaign_period(request), _campaign(request, facets))
        domain = facets.recipient_domain
        return StatisticsGroup(
            tenant=request.tenant,
            brand=campaign.brand,
            dialect=request.dialect,
            template=campaign.template,
            recipient_domain=domain if domain in MAILBOX_DOMAINS else OTHER,
            activity_id=campaign.activity_id,
            action_group_id=campaign.action_group_id,
        )

    def _admit(self, period: CampaignPeriod, wanted: StatisticsCampaign) -> StatisticsCampaign:
        campaigns = self._campaigns.setdefault(period, set())
        brands = self._brands.setdefault(period, set())
        if wanted in campaigns:
            return wanted
        if self._totals.get(period, 0) < self._most:
            self._totals[period] = self._totals.get(period, 0) + 1
            campaigns.add(wanted)
            brands.add(wanted.brand)
            self.added.setdefault(period, []).append(wanted)
            return wanted
        brand = wanted.brand if wanted.brand in brands else OTHER
        return StatisticsCampaign(brand, *(OTHER if value else "" for value in wanted[1:]))


def compute_statistics(
    batch: Sequence[EmailChange | Tick],
    after: Iterable[tuple[EmailId, EmailState]],
    counted: Mapping[EmailId, CountedState],
    book: CampaignBook,
) -> StatisticsChanges:
    """Return what a batch moves in the rollups.

    ``after``: the states of the emails whose rows the batch writes. ``counted``: what is counted of known emails.
    """
    changes = StatisticsChanges()
    group_ids: dict[EmailId, int] = {}
    for request in first_requests(batch, counted):
        group = book.group_of(request)
        group_ids[request.email_id] = group.group_id
        changes.groups[group.group_id] = group
    changes.campaigns = book.added
    for email_id, state in after:
        known = counted.get(email_id) or CountedState()
        group_id = known.group_id if known.group_id is not None else group_ids.get(email_id)
        if group_id is None and state.request is not None:
            # Only an older version's row has a request that no change of this batch repeats.
            group = book.group_of(state.request)
            group_id = group.group_id
            changes.groups[group_id] = group
        changes.group_ids[email_id] = group_id
        if group_id is not None:
            _move(changes.cells, group_id, known.state, state)
    changes.cells = {cell: numbers for cell, numbers in changes.cells.items() if any(numbers)}
    return changes


def _move(cells: dict[StatisticsCell, list[int]], group_id: int, counted: EmailState | None, state: EmailState) -> None:
    """Take out of the cells what the counted state added, and add what the new one does."""
    before = None if counted is None else contribution(counted)
    after = contribution(state)
    out = {} if before is None else dict(before.numbers)
    new = {} if after is None else dict(after.numbers)
    if before is not None and after is not None and _same_place(before, after):
        for name in [name for name, number in new.items() if out.get(name) == number]:
            del out[name], new[name]
    if before is not None:
        _add(cells, group_id, before, out, -1)
    if after is not None:
        _add(cells, group_id, after, new, 1)


def _same_place(before: EmailContribution, after: EmailContribution) -> bool:
    return before.accepted_at == after.accepted_at and before.provider == after.provider


def _add(
    cells: dict[StatisticsCell, list[int]],
    group_id: int,
    place: EmailContribution,
    numbers: Contributed,
    sign: int,
) -> None:
    for (name, _), (number, at) in numbers.items():
        index = _INDEX[name]
        cohort = StatisticsCell(place.tenant, False, slot_of(place.accepted_at), group_id, place.provider)
        _numbers(cells, cohort)[index] += sign * number
        if name not in _EVENT_COUNTERS:
            _numbers(cells, cohort._replace(by_event=True, slot=slot_of(at)))[index] += sign * number


def _numbers(cells: dict[StatisticsCell, list[int]], cell: StatisticsCell) -> list[int]:
    numbers = cells.get(cell)
    if numbers is None:
        numbers = cells[cell] = [0] * len(NUMBERS)
    return numbers


def slot_of(at: Millis) -> int:
    """Return the quarter hour of a time."""
    return min(max(at // SLOT_MS, 0), MAX_SLOT)


def contribution(state: EmailState) -> EmailContribution | None:
    """Return what an email in this state adds; None while its request is not known."""
    state = effective_state(state)
    if state.request is None or state.accepted is None:
        return None
    accepted_at = state.accepted.first
    marks: dict[str, Mark] = {name: mark for name in _MARKS if (mark := getattr(state, name)) is not None}
    times: Times = {(name, ""): (1, marks[mark].first) for name, mark in _OF_ONE_MARK if mark in marks}
    for name, several in _OF_SEVERAL_MARKS:
        if firsts := [marks[mark].first for mark in several if mark in marks]:
            times[name, ""] = 1, min(firsts)
    for name, mark in _OF_EVENTS:
        if mark in marks:
            times[name, ""] = len(marks[mark].ids), marks[mark].first
    _add_bounce(times, state)
    _add_conversions(times, state)
    # A clock that is behind ours can't put a fact before the email was accepted.
    numbers = {name: (number, max(at, accepted_at)) for name, (number, at) in times.items()}
    for name, mark in _OF_TIMES:
        if mark in marks:
            at = max(marks[mark].first, accepted_at)
            numbers[f"{name}/{time_bucket(at - accepted_at)}", ""] = 1, at
    return EmailContribution(state.request.tenant, accepted_at, provider_of(state) or "", numbers)


_EVENT_COUNTERS: Final = frozenset(name for name, _ in _OF_EVENTS)
"""Numbers that the event view does not have: a state keeps how many events there were, not when each of them was."""


def _add_bounce(times: Times, state: EmailState) -> None:
    if state.bounced is None:
        return
    at = state.bounced.first
    if bounce_class_of(state) is BounceClass.HARD:
        times["bounced_hard", ""] = 1, at
        return
    times["bounced_soft", ""] = 1, at
    if state.bounce is not None and is_block(state.bounce):
        times["bounced_block", ""] = 1, at


def is_block(bounce: EventDetail) -> bool:
    """Return whether a soft bounce was a refusal by policy or reputation."""
    words = f"{bounce.type} {bounce.subtype}".lower()
    return "block" in words or bounce.enhanced[1:4] == ".7."


def _add_conversions(times: Times, state: EmailState) -> None:
    assert state.request is not None
    if state.request.dialect != FASTTRACK_DIALECT:
        return
    for word in ever_owed_words(state):
        times["conversions_owed", word.value] = 1, getattr(state, mark_name(word)).first
    for word, settlement in state.settled.items():
        if (name := _OUTCOME_COUNTERS.get(settlement.outcome)) is not None:
            times[name, word.value] = 1, settlement.at
