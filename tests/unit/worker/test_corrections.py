"""Corrections of events that were read wrongly: whatever their order, only the last reading counts."""

from pipeline.worker import fold
from pipeline.worker.fold import evolve
from tests.support.facts import EMAIL_ID, again, event, folded
from topics import readings
from topics.changes import Fact
from topics.events import BounceClass, Correction, DeliveryEvent, EventKind, Retraction
from topics.join import MAX_IDS_PER_MARK


def opened(number: int) -> DeliveryEvent:
    return event(EventKind.OPENED, f"open{number}", at=number + 1)


def retraction(corrected_event: DeliveryEvent, revision: int = 1) -> Retraction:
    correction = Correction(revision=revision, was=fold.mark_of(corrected_event), at=200)
    return Retraction(
        email_id=EMAIL_ID,
        event_id=corrected_event.event_id,
        occurred_at=5,
        recorded_at=5,
        provider="p",
        corrects=correction,
    )


def test_a_hard_bounce_that_was_a_soft_one_blames_the_address_no_more() -> None:
    hard = event(EventKind.BOUNCED, bounce_class=BounceClass.HARD)
    state = readings.effective_state(
        folded([hard, again(hard, 1, EventKind.BOUNCED, bounce_class=BounceClass.SOFT)], evolve)
    )
    assert state.bounced is not None
    assert state.bounce is not None
    assert state.bounce.bounce_class is BounceClass.SOFT


def test_a_retraction_may_come_before_its_event() -> None:
    complaint = event(EventKind.COMPLAINED)
    orders: list[list[Fact]] = [[complaint, retraction(complaint)], [retraction(complaint), complaint]]
    for order in orders:
        state = folded([event(EventKind.DELIVERED, "d"), *order], evolve)
        assert readings.email_status(state) is readings.EmailStatus.DELIVERED
        assert readings.effective_state(state).complaint is None
        assert readings.updated_at(state) == 200


def test_a_correction_taken_back_makes_the_event_count_again() -> None:
    bounce = event(EventKind.BOUNCED)
    wrong = again(bounce, 1, EventKind.DEFERRED)
    right = again(wrong, 2, EventKind.BOUNCED)
    state = folded([right, bounce, wrong], evolve)
    assert readings.email_status(state) is readings.EmailStatus.BOUNCED
    assert readings.effective_state(state).bounce is not None


def test_openings_beyond_the_sketch_can_all_turn_out_to_be_a_machine_s() -> None:
    many = [opened(number) for number in range(3 * MAX_IDS_PER_MARK)]
    corrections = [again(each, 1, EventKind.OPENED, machine="scanner") for each in many]
    state = folded([*many, *corrections], evolve)
    assert readings.effective_state(state).opened is None
    assert readings.count_events(state, "opened_machine") == (MAX_IDS_PER_MARK, False)
    assert len(state.corrected) == MAX_IDS_PER_MARK


def test_nobody_loses_a_corrected_bounce_by_fetching_a_pixel() -> None:
    bounced = event(EventKind.BOUNCED, "b")
    many = [opened(number) for number in range(3 * MAX_IDS_PER_MARK)]
    corrections = [again(each, 1, EventKind.OPENED, machine="scanner") for each in many]
    state = folded([bounced, again(bounced, 1, EventKind.DEFERRED), *many, *corrections], evolve)
    assert readings.effective_state(state).bounced is None
