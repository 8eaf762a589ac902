"""Evidence of emails and decisions of operators, and whether an address then gets mail."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.worker.fold import evolve
from projections.suppression_rules import (
    DAY_MS,
    AddressDecision,
    Evidence,
    Suppression,
    SuppressionRule,
    evidence_of,
    latest_decision,
    suppression_for,
)
from tests.support.changes import T0, event, identified, request
from tests.support.facts import facts
from topics.changes import Fact
from topics.events import BounceClass, Correction, DeliveryEvent, EventKind
from topics.join import merge
from topics.record import EmailId, Millis
from topics.states import EmailState
from topics.suppressions import SuppressionReason

RULE = SuppressionRule(soft_bounces=5, days=30)
NOW = T0 + 100 * DAY_MS


def hashed(address: str) -> bytes:
    return address.encode()


def state(*facts: Fact) -> EmailState:
    folded_state = None
    for fact in facts:
        folded_state = evolve(folded_state, fact)
    assert folded_state is not None
    return folded_state


def soft(bounce_type: str = "", subtype: str = "", enhanced: str = "") -> DeliveryEvent:
    values = {"bounce_class": BounceClass.SOFT, "bounce_type": bounce_type, "bounce_subtype": subtype}
    return msgspec.structs.replace(event(1, EventKind.BOUNCED, T0), enhanced=enhanced, **values)


def reasons_of(*facts: Fact) -> list[SuppressionReason]:
    return [key.reason for key in evidence_of(state(*facts), hashed)]


# ---------------------------------------------------------------- what an email tells
@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        (EventKind.BOUNCED, [SuppressionReason.HARD_BOUNCE]),
        (EventKind.COMPLAINED, [SuppressionReason.COMPLAINT]),
        (EventKind.UNSUBSCRIBED, [SuppressionReason.UNSUBSCRIBE]),
        (EventKind.DELIVERED, []),
        (EventKind.DEFERRED, []),
        (EventKind.DROPPED, []),
        (EventKind.FAILED, []),
        (EventKind.UNKNOWN, []),
    ],
)
def test_what_is_evidence(kind: EventKind, reasons: list[SuppressionReason]) -> None:
    assert reasons_of(request(1), event(1, kind, T0)) == reasons


def test_evidence_names_tenant_brand_address_email_and_event() -> None:
    [(key, sign)] = evidence_of(state(request(1), event(1, EventKind.COMPLAINED, T0)), hashed).items()
    assert (key.tenant, key.brand, key.address_hash) == ("acme", "2", b"player1@example.com")
    assert (key.email_id, sign.event_id) == (identified(1), "sg:1:complained:0")
    assert sign.at == T0 + 2, "our clock: when we heard of it"


def test_a_brand_that_no_column_can_hold_is_kept_as_it_is_asked_for() -> None:
    odd = msgspec.structs.replace(request(1), brand="a\x00b")
    [key] = evidence_of(state(odd, event(1, EventKind.COMPLAINED, T0)), hashed)
    assert key.brand == "a\ufffdb"


def test_state_without_request_gives_no_evidence() -> None:
    assert reasons_of(event(1, EventKind.BOUNCED, T0)) == []


@pytest.mark.parametrize(
    ("bounce", "reasons"),
    [
        (soft(), [SuppressionReason.SOFT_BOUNCE]),
        (soft(enhanced="4.2.2"), [SuppressionReason.SOFT_BOUNCE]),
        (soft("Transient", "MailboxFull"), [SuppressionReason.SOFT_BOUNCE]),
        (soft(enhanced="4.4.1"), [SuppressionReason.SOFT_BOUNCE]),
        (soft(enhanced="5.7.1"), []),
        (soft(enhanced="5.6.0"), []),
        (soft(enhanced="5.1.8"), []),
        (soft("blocked"), []),
        (soft("Transient", "ContentRejected"), []),
        (soft("Transient", "MessageTooLarge"), []),
        (soft("SpamNotification"), []),
    ],
)
def test_soft_bounce_counts_if_it_blames_the_mailbox(bounce: DeliveryEvent, reasons: list[SuppressionReason]) -> None:
    assert reasons_of(request(1), bounce) == reasons


def test_a_hard_bounce_takes_the_soft_one_s_place() -> None:
    assert reasons_of(request(1), soft(), event(1, EventKind.BOUNCED, T0 + 9, nth=1)) == [SuppressionReason.HARD_BOUNCE]


def test_corrected_events_give_no_evidence() -> None:
    bounced = event(1, EventKind.BOUNCED, T0)
    correction = Correction(revision=1, was="bounced", at=T0 + DAY_MS)
    corrected_event = msgspec.structs.replace(bounced, kind=EventKind.DEFERRED, bounce_class=None, corrects=correction)
    assert reasons_of(request(1), bounced, corrected_event) == []
    assert reasons_of(request(1), corrected_event, bounced) == []


def test_new_unsubscribe_counts_and_late_report_does_not() -> None:
    first = event(1, EventKind.UNSUBSCRIBED, T0)
    reported = msgspec.structs.replace(first, recorded_at=T0 + DAY_MS)
    again = event(1, EventKind.UNSUBSCRIBED, T0 + DAY_MS, nth=1)
    stories: list[list[Fact]] = [[first], [first, reported], [first, again]]
    ats = [sign.at for facts in stories for sign in evidence_of(state(request(1), *facts), hashed).values()]
    assert ats == [T0 + 2, T0 + 2, T0 + DAY_MS]


@given(st.lists(facts, min_size=1, max_size=8), st.randoms(use_true_random=False), st.integers(0, 8))
def test_evidence_is_the_same_in_any_order_and_from_any_two_halves(found: list[Fact], chance: object, cut: int) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert evidence_of(state(*found), hashed) == evidence_of(state(*shuffled), hashed)
    halves = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
    joined = state(*halves[0])
    for half in halves[1:]:
        joined = merge(joined, state(*half))
    assert evidence_of(joined, hashed) == evidence_of(state(*found), hashed)


# ---------------------------------------------------------------- whether an address gets mail
def proof(at: Millis, reason: SuppressionReason = SuppressionReason.HARD_BOUNCE, number: int = 1) -> Evidence:
    return Evidence(at, reason, identified(number), f"event {number}")


def softs(*days: int) -> list[Evidence]:
    """Soft bounces so many days ago."""
    return [proof(NOW - ago * DAY_MS, SuppressionReason.SOFT_BOUNCE, nth) for nth, ago in enumerate(days)]


def listed(
    at: Millis, nth: int, brand: str = "7", reason: SuppressionReason | None = SuppressionReason.MANUAL
) -> AddressDecision:
    return AddressDecision(nth=nth, brand=brand, at=at, by="cli anna", reason=reason)


def asked(
    evidence: Sequence[Evidence],
    *decisions: AddressDecision,
    rule: SuppressionRule = RULE,
    soft_since: Millis | None = None,
) -> Suppression | None:
    since = rule.since(NOW) if soft_since is None else soft_since
    return suppression_for("7", latest_decision(decisions), evidence, rule, soft_since=since)


@pytest.mark.parametrize(
    "reason", [SuppressionReason.HARD_BOUNCE, SuppressionReason.COMPLAINT, SuppressionReason.UNSUBSCRIBE]
)
def test_one_strong_evidence_of_any_age_suppresses(reason: SuppressionReason) -> None:
    why = asked([proof(1, reason)])
    assert why == Suppression(reason=reason, since=1, brand="7", email_id=identified(1), event_id="event 1")
    assert why.description == reason.value


def test_the_earliest_is_named() -> None:
    why = asked([proof(30, SuppressionReason.COMPLAINT, 2), proof(20, SuppressionReason.HARD_BOUNCE, 3)])
    assert why is not None
    assert (why.reason, why.since) == (SuppressionReason.HARD_BOUNCE, 20)


def test_five_soft_bounces_within_thirty_days_are_enough_and_the_fifth_is_named() -> None:
    assert asked(softs(1, 2, 3, 4)) is None
    why = asked(softs(1, 2, 3, 4, 29))
    assert why is not None
    assert (why.reason, why.event_id) == (SuppressionReason.SOFT_BOUNCE, "event 0")
    assert asked(softs(1, 2, 3, 4, 31)) is None, "the fifth is too old"
    assert asked(softs(*range(20)), rule=SuppressionRule(0, 30)) is None, "0 is never"


def test_soft_bounces_before_a_delivery_do_not_count() -> None:
    assert asked(softs(1, 2, 3, 4, 5), soft_since=NOW - 3 * DAY_MS) is None


def test_a_decision_stands_until_the_next_one() -> None:
    manual = asked([], listed(5, 1))
    assert manual == Suppression(reason=SuppressionReason.MANUAL, since=5, brand="7", by="cli anna")
    assert manual.description == "listed, manual"
    assert asked([], listed(5, 1), listed(6, 2, reason=None)) is None
    assert asked([], listed(5, 3), listed(6, 2, reason=None)) == manual, "the log's order counts, not the clocks'"


def test_what_was_heard_before_a_lift_counts_no_more_and_what_is_heard_after_it_does() -> None:
    lift_ = listed(10, 1, reason=None)
    assert asked([proof(9), proof(10)], lift_) is None
    assert asked([proof(9), proof(11, number=2)], lift_) is not None
    assert asked(softs(1, 2, 3, 4, 5), listed(NOW - 3 * DAY_MS, 1, reason=None)) is None


@pytest.mark.parametrize(("first", "second"), [("*", "7"), ("7", "*")])
def test_of_a_decision_for_the_brand_and_one_for_all_the_later_stands(first: str, second: str) -> None:
    assert asked([proof(1)], listed(5, 1, first), listed(6, 2, second, reason=None)) is None
    why = asked([], listed(5, 1, first, reason=None), listed(6, 2, second))
    assert why is not None
    assert why.brand == second


evidence_ = st.lists(
    st.builds(proof, st.integers(0, 20), st.sampled_from([*SuppressionReason][:4]), st.integers(1, 4)), max_size=8
)


@given(evidence_, st.randoms(use_true_random=False), st.integers(0, 20), st.integers(0, 5))
def test_order_does_not_matter_and_more_evidence_never_lifts(
    evidence: list[Evidence], chance: object, soft_since: int, enough: int
) -> None:
    rule = SuppressionRule(enough, 30)
    decided = listed(7, 1, reason=None)
    why = suppression_for("7", decided, evidence, rule, soft_since=soft_since)
    shuffled = list(evidence)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert suppression_for("7", decided, shuffled, rule, soft_since=soft_since) == why
    for some in range(len(evidence)):
        if suppression_for("7", decided, evidence[:some], rule, soft_since=soft_since) is not None:
            assert why is not None
    assert why is None or why.since > decided.at


@given(evidence_, st.integers(0, 21))
def test_after_a_lift_only_later_evidence_suppresses(evidence: list[Evidence], at: int) -> None:
    later = [one for one in evidence if one.at > at]
    lifted = listed(at, 1, reason=None)
    assert suppression_for("7", lifted, evidence, RULE, soft_since=0) == suppression_for(
        "7", None, later, RULE, soft_since=0
    )


def test_an_email_id_is_what_tells_evidence_from_a_decision() -> None:
    assert Suppression(reason=SuppressionReason.MANUAL, since=1, brand="7").is_listed
    assert not Suppression(reason=SuppressionReason.SOFT_BOUNCE, since=1, brand="7", email_id=EmailId("x")).is_listed
