"""Emails of many kinds for the history API, and an oracle that answers its questions in memory, from the log alone."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from projections.email_listing import EmailFilter, EmailOrder, EmailQuery, OpenedBy
from projections.sink import ChangeBatch, Sink
from tests.support.changes import T0, Log, fates
from topics.acks import Dropped
from topics.changes import EmailChange, Fact, Tick
from topics.ids import brand_uuid
from topics.join import merge
from topics.readings import effective_state, email_status, listed_state, sent_at
from topics.record import Millis
from topics.requests import SendRequest
from topics.states import EmailState
from topics.templates import TemplateRef

DOMAINS = ("example.com", "mail.example.org", "xn--bcher-kva.example")
PARTITIONS = 2


class ValidVersion(NamedTuple):
    """A version of an email and the half-open interval in which it was valid."""

    version: int
    valid_from: Millis
    valid_to: Millis
    state: EmailState


class KnownEmail:
    """An email's versions, and its request as it was first known."""

    def __init__(self) -> None:
        self.versions: list[ValidVersion] = []
        self.request: SendRequest | None = None
        self.accepted_at = 0

    def add(self, valid_from: Millis, state: EmailState) -> None:
        """Add the state after a change, if it differs."""
        if self.versions:
            last = self.versions[-1]
            state = merge(last.state, state)
            if state == last.state:
                return
            self.versions[-1] = last._replace(valid_to=valid_from)
        self.versions.append(ValidVersion(len(self.versions) + 1, valid_from, 2**62, state))
        if self.request is None and state.request is not None:
            self.request, self.accepted_at = state.request, min(state.request.recorded_at, valid_from)

    def at(self, moment: Millis) -> ValidVersion | None:
        """Return the version that was valid at a moment."""
        return next((each for each in self.versions if each.valid_from <= moment < each.valid_to), None)


def varied_log(seed: int, partition: int, emails: int, tenant: str = "acme") -> Log:
    """Return the log of a partition whose emails differ in everything that can be asked."""
    chance = random.Random(f"{seed} {partition} {tenant}")
    log = Log(partition)
    waiting = [
        _varied(fates(number, T0 + number * 1000 + chance.randint(-3000, 3000), chance, tenant), chance)
        for number in range(partition, PARTITIONS * emails, PARTITIONS)
    ]
    while waiting:
        left = chance.choice(waiting)
        batch = [left.pop(0 if chance.random() < 0.8 else -1) for _ in range(min(len(left), chance.randint(1, 2)))]
        log.fold(*batch)
        if chance.random() < 0.15:
            log.fold(*batch)
        waiting = [facts for facts in waiting if facts]
    return log


def _varied(facts: list[Fact], chance: random.Random) -> list[Fact]:
    request = facts[0]
    assert isinstance(request, SendRequest)
    is_activity = chance.random() < 0.7
    activity = {
        "activity_id": chance.randint(1, 3),
        "action_group_id": chance.randint(10, 11),
        "action_id": chance.randint(1, 2),
        "trigger_hash": chance.choice(("ab12", "cd34")),
        "user_id": chance.choice((7, "7", 123456789012345678901234567890)),
    }
    facts[0] = msgspec.structs.replace(
        request,
        dialect="fasttrack" if is_activity else "freshmail",
        recipient=f"Player{chance.randint(1, 9)}@{chance.choice(DOMAINS).replace('xn--bcher-kva', 'bücher')}",
        activity=msgspec.Raw(json.dumps(activity).encode()) if is_activity else msgspec.Raw(b"null"),
        message_id=request.message_id[:-1] + "0",
        template=TemplateRef(id=f"template-{chance.randint(1, 2)}", version=1, language="en")
        if chance.random() < 0.5
        else None,
    )
    return [
        msgspec.structs.replace(fact, reason=chance.choice(("suppressed: complaint", "suppressed: manual")))
        if isinstance(fact, Dropped)
        else fact
        for fact in facts
    ]


def ticked(log: Log, now: Millis) -> list[ChangeBatch]:
    """Return the log in batches of random sizes, with a tick at the end."""
    chance = random.Random(log.partition)
    records: list[EmailChange | Tick] = [*log.changes, Tick(recorded_at=now)]
    batches, first = [], 0
    while first < len(records):
        end = min(len(records), first + chance.randint(1, 40))
        batches.append(ChangeBatch(log.partition, first, end, records[first:end]))
        first = end
    return batches


async def project_all(connection: Any, sink: Sink, logs: Sequence[Log], now: Millis) -> None:
    """Project logs of different partitions; ticks at the end say that nothing else came before ``now``."""
    for log in logs:
        await sink.start(connection, log.partition, 0, 0, len(logs))
        for batch in ticked(log, now):
            await sink.apply(connection, batch)


class HistoryOracle:
    """Answers questions of the history from logs."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self.emails: dict[str, KnownEmail] = {}
        for log in logs:
            through = 0
            for change in log.changes:
                through = max(through, change.recorded_at)
                self.emails.setdefault(change.email_id, KnownEmail()).add(through, change.state)

    def ids(self, query: EmailQuery) -> list[str]:
        """Return the ids of all emails of a listing, in its order."""
        found = sorted(self._matching(query), reverse=query.descending)
        return [email_id for _, email_id in found]

    def changes(self, tenant: str, until: Millis) -> list[tuple[Millis, str, int]]:
        """Return the place of each version in the feed of changes."""
        return sorted(
            (version.valid_from, email_id, version.version)
            for email_id, email in self.emails.items()
            for version in email.versions
            if version.state.request is not None
            and version.state.request.tenant == tenant
            and version.valid_from <= until
        )

    def _matching(self, query: EmailQuery) -> Iterator[tuple[Millis, str]]:
        for email_id, email in self.emails.items():
            version = email.at(query.as_of)
            if version is None or version.state.request is None or version.state.request.tenant != query.tenant:
                continue
            assert email.request is not None
            sent = sent_at(version.state)
            sent = None if sent is None else min(sent, version.valid_from)
            at = {EmailOrder.ACCEPTED: email.accepted_at, EmailOrder.SENT: sent, EmailOrder.UPDATED: version.valid_from}
            if query.order is EmailOrder.SENT and (sent is None or listed_state(version.state) is None):
                continue
            if _matches(query.filter, email, version, sent):
                moment = at[query.order]
                assert moment is not None
                yield moment, email_id


def _matches(asked: EmailFilter, email: KnownEmail, version: ValidVersion, sent: Millis | None) -> bool:
    request, state = email.request, effective_state(version.state)
    assert request is not None
    activity = json.loads(bytes(request.activity)) or {}
    details = [each for each in (state.bounce, state.drop, state.failure, state.complaint) if each is not None]
    refusal = state.bounce or state.failure
    by_ids = [provider for provider, _ in state.provider_ids]
    values: dict[str, Any] = {
        "brand_uuid": brand_uuid(request.tenant, request.brand),
        "dialect": request.dialect,
        "template": None if request.template is None else request.template.id,
        "message_id": request.message_id,
        "identity": request.identity,
        "recipient": request.recipient.lower().replace("bücher", "xn--bcher-kva"),
        "recipient_domain": request.recipient.partition("@")[2].replace("bücher", "xn--bcher-kva"),
        "provider": next(iter([*by_ids, *(each.provider for each in details if each.provider)]), None),
        "bounce_class": state.bounce.bounce_class.value if state.bounce and state.bounce.bounce_class else None,
        "bounce_code": (refusal.enhanced or str(refusal.code or "") or None) if refusal else None,
        "suppressed_reason": state.drop.type.removeprefix("suppressed: ") if state.drop else None,
    } | {name: str(value) for name, value in activity.items()}
    if any(getattr(asked, name) not in (None, values.get(name)) for name in (*_EXACT, *_ACTIVITY)):
        return False
    if asked.statuses and email_status(version.state) not in asked.statuses:
        return False

    def has(name: str) -> bool:
        return getattr(state, name) is not None

    if not all(has(fact.value) for fact in asked.facts) or any(has(fact.value) for fact in asked.without):
        return False
    return _opened_as_asked(asked, has) and all(
        _within(at, getattr(asked, f"{name}_from"), getattr(asked, f"{name}_to"))
        for name, at in (("accepted", email.accepted_at), ("sent", sent), ("updated", version.valid_from))
    )


_EXACT = (
    *("brand_uuid", "dialect", "template", "message_id", "identity", "recipient", "recipient_domain", "provider"),
    *("bounce_class", "bounce_code", "suppressed_reason"),
)
_ACTIVITY = ("activity_id", "action_group_id", "action_id", "trigger_hash", "user_id")


def _opened_as_asked(asked: EmailFilter, has: Callable[[str], bool]) -> bool:
    return {
        None: True,
        OpenedBy.HUMAN: has("opened"),
        OpenedBy.MACHINE: has("opened_machine"),
        OpenedBy.NOBODY: not has("opened") and not has("opened_machine"),
    }[asked.opened_by]


def _within(at: Millis | None, start: Millis | None, end: Millis | None) -> bool:
    if start is None and end is None:
        return True
    return at is not None and (start is None or at >= start) and (end is None or at < end)
