"""Events that are normalized again, compared with the stored ones: only differences are appended, and only once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.renormalize import parse_moment
from pipeline.errors import Refused
from pipeline.operations.renormalize.diff import DiffKind, diff_event, retractions_of_changed_ids, unique_events
from pipeline.worker.fold import evolve, mark_of
from tests.support.facts import event, folded
from topics.changes import Fact
from topics.events import BounceClass, Correction, DeliveryEvent, EventKind, Retraction
from topics.join import MARKS
from topics.readings import effective_state

NATIVE = msgspec.Raw(b'{"event":"bounce"}')
STORED = event(EventKind.BOUNCED, "sg:1", at=5, bounce_class=BounceClass.HARD, native=NATIVE)


def replaced(original: DeliveryEvent, **values: object) -> DeliveryEvent:
    return msgspec.structs.replace(original, **values)


def test_native_fields_are_not_compared() -> None:
    assert diff_event(replaced(STORED, native=msgspec.Raw(b"{}")), STORED, 9).kind is DiffKind.SAME


@pytest.mark.parametrize("stored", [STORED, replaced(STORED, kind=EventKind.DEFERRED)])
def test_event_of_another_webhook_is_a_repeat(stored: Fact) -> None:
    assert diff_event(replaced(STORED, recorded_at=6), stored, 9).kind is DiffKind.REPEAT


def test_unknown_event_is_new() -> None:
    judged = diff_event(STORED, None, 9)
    assert (judged.kind, judged.event) == (DiffKind.NEW, STORED)


def test_correction_has_the_next_revision_and_the_former_mark() -> None:
    first = diff_event(replaced(STORED, kind=EventKind.OPENED, machine="scanner"), STORED, 9).event
    assert first is not None
    assert first.corrects == Correction(revision=1, was="bounced", at=9)
    second = diff_event(STORED, first, 10).event
    assert second == replaced(STORED, corrects=Correction(revision=2, was="opened_machine", at=10))
    assert diff_event(STORED, second, 11).kind is DiffKind.SAME


def test_event_with_a_changed_id_is_retracted_once() -> None:
    new_event = replaced(STORED, event_id="sg:1:recipient")
    timeline: dict[tuple[str, str], Fact] = {(STORED.email_id, STORED.event_id): STORED}
    [retraction] = retractions_of_changed_ids([new_event], timeline, 9)  # type: ignore[arg-type]
    assert (retraction.event_id, retraction.corrects) == ("sg:1", Correction(revision=1, was="bounced", at=9))
    # Told so, there is nothing left to retract; and where the old way was right after all, it counts again.
    timeline = {(STORED.email_id, STORED.event_id): retraction, (STORED.email_id, new_event.event_id): new_event}
    assert retractions_of_changed_ids([new_event], timeline, 10) == []  # type: ignore[arg-type]
    assert [each.event_id for each in retractions_of_changed_ids([STORED], timeline, 10)] == ["sg:1:recipient"]  # type: ignore[arg-type]
    back = diff_event(STORED, retraction, 10).event
    assert back is not None
    assert back.corrects == Correction(revision=2, was="", at=10)


@pytest.mark.parametrize(
    "other",
    [
        replaced(STORED, event_id="sg:2", recorded_at=6),
        replaced(STORED, event_id="sg:2", native=msgspec.Raw(b'{"event":"open"}')),
        replaced(STORED, event_id="sg:2", provider="another"),
    ],
)
def test_event_is_retracted_only_for_the_same_webhook_and_fields(other: DeliveryEvent) -> None:
    assert retractions_of_changed_ids([STORED], {(other.email_id, other.event_id): other}, 9) == []


def test_event_without_native_fields_is_not_retracted() -> None:
    mute = replaced(STORED, native=msgspec.Raw(b"null"))
    other = replaced(mute, event_id="sg:2")
    assert retractions_of_changed_ids([mute], {(other.email_id, other.event_id): other}, 9) == []


kinds = st.sampled_from(EventKind)


@given(st.lists(kinds, min_size=1, max_size=6))
def test_last_mapping_wins_and_a_second_run_changes_nothing(
    read: list[EventKind],
) -> None:
    log: list[Fact] = [STORED]
    stored: Fact = STORED
    for at, kind in enumerate(read, 10):
        for _ in range(2):
            judged = diff_event(replaced(STORED, kind=kind), stored, at)
            if judged.event is not None:
                log.append(judged.event)
                stored = judged.event
        assert diff_event(replaced(STORED, kind=kind), stored, at).kind is DiffKind.SAME
    state = effective_state(folded(log[::-1], evolve))
    assert [name for name in MARKS if getattr(state, name) is not None] == [mark_of(replaced(STORED, kind=read[-1]))]


def test_repeats_within_a_webhook_are_removed() -> None:
    twice = [STORED, replaced(STORED, text="again"), replaced(STORED, event_id="sg:2")]
    assert [each.text for each in unique_events(twice)] == ["", ""]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90m", 1_000_000_000 - 90 * 60_000),
        ("7d", 1_000_000_000 - 7 * 86_400_000),
        ("1970-01-02", 86_400_000),
        ("1970-01-02T01:00:00+01:00", 86_400_000),
    ],
)
def test_moment_is_parsed(text: str, meant: int) -> None:
    assert parse_moment(text, 1_000_000_000, "--since") == meant


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-1d", "2025-13-01"])
def test_malformed_moment_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="--since"):
        parse_moment(text, 0, "--since")


def test_retraction_is_not_retracted() -> None:
    retraction = Retraction(
        email_id=STORED.email_id,
        event_id="x",
        occurred_at=5,
        recorded_at=5,
        provider="p",
        corrects=Correction(revision=1, was="bounced", at=6),
    )
    assert retractions_of_changed_ids([STORED], {(STORED.email_id, "x"): retraction}, 9) == []
