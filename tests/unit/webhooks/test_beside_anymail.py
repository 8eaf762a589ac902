"""Each golden payload compared with django-anymail's reading: a table states the reason of each difference.

A difference that is not in the table fails, and so does a row that no longer shows.
"""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from pipeline.webhooks.providers.registry import ADAPTERS
from tests.support.anymail import VIEWS, milliseconds, parsed
from tests.support.anymail_differences import DIFFERENCES, Difference
from tests.support.golden import EMAIL_ID, HEADERS, Case, cases, events_of_case
from topics.events import BounceClass, DeliveryEvent, EventKind

# Our words in theirs, where they are others.
TYPES = {EventKind.DROPPED: "rejected", EventKind.REPLIED: "autoresponded"}
# What we say of an event -> their reasons that say the same or more of it; none, where the type says it all, says no
# other. We keep the provider's own words instead.
REASONS: dict[str, set[str]] = {
    "hard": {"bounced", "invalid"},
    "soft": {"bounced", "timed_out", "blocked", "spam", "other"},
    "dropped": {"blocked", "bounced", "spam", "unsubscribed", "invalid", "other"},
    "complained": {"spam"},
    "unsubscribed": {"unsubscribed"},
    "": set(),
}


def differences(case: Case) -> Iterator[Difference]:
    """Where they and we say something else of the same request."""
    ours = events_of_case(ADAPTERS[case.kind], case)
    try:
        theirs = parsed(case, HEADERS.get(case.kind, {}))
    except Exception as error:
        yield "raises", type(error).__name__, ""
        return
    if len(ours) != len(theirs):
        yield "events", str(len(theirs)), str(len(ours))
        return
    for our, their in zip(ours, theirs, strict=True):
        their_fields = dict(their.__dict__)
        yield from _differences(our, their_fields)


def _differences(our: DeliveryEvent, their: dict[str, object]) -> Iterator[Difference]:
    yield "type", str(their["event_type"]), TYPES.get(our.kind, our.kind.value)
    if their["event_type"] == "inbound":
        return
    reason = _reason(our)
    fits = their["reject_reason"] is None or their["reject_reason"] in REASONS[reason]
    yield "reason", reason if fits else str(their["reject_reason"]), reason
    yield "time", _time(milliseconds(their["timestamp"]), our.occurred_at), "same"  # type: ignore[arg-type]
    yield "event id", _same(their["event_id"], our.event_id.partition(":")[2]), "same"
    yield "message id", _same(their["message_id"], our.provider_message_id), "same"
    metadata = their["metadata"] if isinstance(their["metadata"], dict) else {}
    yield "email", str(metadata.get("mailfold_email_id") == EMAIL_ID), str(our.email_id == EMAIL_ID)


def _reason(our: DeliveryEvent) -> str:
    if our.kind is EventKind.BOUNCED:
        return "hard" if our.bounce_class is BounceClass.HARD else "soft"
    return our.kind.value if our.kind.value in REASONS else ""


def _time(their: int | None, our: int) -> str:
    if their is None:
        return "none"
    return "same" if abs(their - our) <= 1 else "another"


def _same(their: object, our: str) -> str:
    text = "" if their is None else str(their).strip("<>")
    if text == our.strip("<>"):
        return "same"
    return "another" if text else "none"


def real(case: Case) -> Iterator[Difference]:
    return (one for one in differences(case) if one[1] != one[2])


@pytest.mark.parametrize("case", cases(*VIEWS), ids=str)
def test_events_agree_with_anymail_or_differ_for_a_listed_reason(case: Case) -> None:
    table = DIFFERENCES[case.kind]
    unlisted = [one for one in real(case) if one not in table or not table[one].covers(case.name)]
    assert not unlisted


@pytest.mark.parametrize("kind", VIEWS)
def test_every_listed_difference_occurs(kind: str) -> None:
    seen: dict[Difference, set[str]] = defaultdict(set)
    for case in cases(kind):
        for one in real(case):
            seen[one].add(case.name)
    gone = {row: set(why.cases) - seen[row] for row, why in DIFFERENCES[kind].items()}
    assert not [row for row, cases in gone.items() if cases or not seen[row]]
