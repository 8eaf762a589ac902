"""What emails are filtered by: requests' and states' facets."""

import msgspec
import pytest

from projections.email_facets import (
    EmailFact,
    facet_text,
    fact_bit,
    lower_case_address,
    request_facets,
    state_facets,
)
from tests.support.changes import T0, Log, acked, again, event, request
from topics.acks import Dropped, Failed, Rejected
from topics.events import EventKind
from topics.ids import MAX_ID_BYTES
from topics.join import MARKS
from topics.states import EmailState


def test_facts_are_the_marks_of_the_state_and_their_bits_never_change() -> None:
    assert [fact.value for fact in EmailFact] == list(MARKS)
    assert [fact_bit(fact) for fact in EmailFact] == [1 << nth for nth in range(17)]
    assert fact_bit(EmailFact.DELIVERED) == 32, "stored in every row"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b'"1\\u0000"', "1\ufffd"),
        (b"1.50", "1.50"),
        (b"true", "true"),
        (b"null", None),
        (b"[1]", None),
        (b'{"a":1}', None),
    ],
)
def test_activity_field_is_text_as_it_was_sent(raw: bytes, expected: str | None) -> None:
    sent = msgspec.structs.replace(request(1), activity=msgspec.Raw(b'{"user_id": ' + raw + b"}"))
    assert request_facets(sent, lower_case_address).user_id == expected


@pytest.mark.parametrize("activity", [b"null", b"[]", b"{", b'"text"', b"[" * 100_000])
def test_activity_that_is_no_object_has_no_fields(activity: bytes) -> None:
    sent = msgspec.structs.replace(request(1), activity=msgspec.Raw(activity))
    facets = request_facets(sent, lower_case_address)
    assert (facets.user_id, facets.activity_id, facets.trigger_hash) == (None, None, None)


def test_long_text_fits_into_every_index() -> None:
    assert len(facet_text("x" * 10_000)) < MAX_ID_BYTES
    assert len(facet_text("😀" * 10_000).encode()) < MAX_ID_BYTES
    assert facet_text("x" * 10_000) != facet_text("x" * 10_001)


def folded(*facts: object) -> EmailState:
    return Log().fold(*facts).changes[-1].state  # type: ignore[arg-type]


def common(kind: str) -> dict[str, object]:
    return {"email_id": request(1).email_id, "event_id": kind, "occurred_at": T0, "recorded_at": T0}


def test_state_tells_status_facts_and_provider() -> None:
    facets = state_facets(folded(request(1), acked(1, T0), event(1, EventKind.DELIVERED, T0)))
    expected = fact_bit(EmailFact.ACCEPTED) | fact_bit(EmailFact.SENT) | fact_bit(EmailFact.DELIVERED)
    assert (facets.status.value, facets.facts, facets.provider) == ("delivered", expected, "relay")
    assert (facets.bounce_class, facets.bounce_code, facets.suppressed_reason) == (None, None, None)


def test_refusals_tell_class_and_code() -> None:
    rejected = Rejected(provider="mx", code=550, enhanced="5.1.1", **common("r"))  # type: ignore[arg-type]
    facets = state_facets(folded(request(1), rejected))
    assert (facets.bounce_class, facets.bounce_code, facets.provider) == ("hard", "5.1.1", "mx")
    failed = Failed(reason="gave up", code=451, **common("f"))  # type: ignore[arg-type]
    assert state_facets(folded(request(1), failed)).bounce_code == "451"


def test_drop_tells_reason_of_suppression() -> None:
    dropped = Dropped(reason="suppressed: complaint", **common("d"))  # type: ignore[arg-type]
    assert state_facets(folded(request(1), dropped)).suppressed_reason == "complaint"


def test_corrected_fact_does_not_count() -> None:
    opened = event(1, EventKind.OPENED, T0)
    state = folded(request(1), opened, again(opened, EventKind.OPENED, T0 + 1, machine="a scanner"))
    facts = state_facets(state).facts
    assert facts & fact_bit(EmailFact.OPENED_MACHINE)
    assert not facts & fact_bit(EmailFact.OPENED)
