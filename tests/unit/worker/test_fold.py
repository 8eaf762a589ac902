"""The fold is a function of the set of facts: order, repeats, splits and clocks never matter."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.worker import fold
from pipeline.worker.fold import evolve, state_of_fact
from tests.chaos import fold as oracle
from tests.support.facts import EMAIL_ID, acks, again, conversions, event, events, facts, folded, histories, requests
from topics import codec, join, readings
from topics.changes import Fact
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.ids import id_hash
from topics.join import MAX_IDS_PER_MARK, merge
from topics.record import EmailId
from topics.registry import EMAIL_STATES
from topics.states import EmailState, Mark

Property = Callable[[st.DataObject], None]


def order_and_repeats_do_not_matter(data: st.DataObject) -> None:
    history = data.draw(histories)
    repeated = history + data.draw(st.lists(st.sampled_from(history), max_size=4))
    assert folded(data.draw(st.permutations(repeated)), fold.evolve) == folded(history, fold.evolve)


def splits_do_not_matter(data: st.DataObject) -> None:
    history = data.draw(histories)
    cut = data.draw(st.integers(0, len(history)))
    states = [folded(part, fold.evolve) for part in (history[:cut], history[cut:]) if part]
    joined = states[0] if len(states) == 1 else join.merge(*states)
    assert joined == folded(history, fold.evolve)


def the_fold_is_the_join_of_single_facts(data: st.DataObject) -> None:
    history = data.draw(histories)
    state = folded(history, fold.evolve)
    fact = data.draw(facts)
    assert fold.evolve(state, fact) == join.merge(state, fold.state_of_fact(fact))


def interleaved_topics_do_not_matter(data: st.DataObject) -> None:
    """Each topic keeps its own order; how they interleave is chance."""
    lanes = [data.draw(st.lists(kind, max_size=4)) for kind in (requests, acks, events, conversions)]
    order = data.draw(st.permutations([index for index, lane in enumerate(lanes) for _ in lane]))
    left = [iter(lane) for lane in lanes]
    interleaved = [next(left[index]) for index in order]
    assert folded(interleaved, fold.evolve) == folded([fact for lane in lanes for fact in lane], fold.evolve)


def a_clock_in_the_future_counts_as_ours(data: st.DataObject) -> None:
    history = data.draw(histories)
    clamped = [
        msgspec.structs.replace(fact, occurred_at=min(fact.occurred_at, fact.recorded_at))
        if hasattr(fact, "occurred_at")
        else fact
        for fact in history
    ]
    assert folded(history, fold.evolve) == folded(clamped, fold.evolve)


def no_history_exceeds_the_bounds(data: st.DataObject) -> None:
    state = folded(data.draw(histories), fold.evolve)
    assert all(len(mark.ids) <= MAX_IDS_PER_MARK for name in join.MARKS if (mark := getattr(state, name)) is not None)
    assert len(state.corrected) <= join.MAX_CORRECTIONS
    assert join.bounded_state(state) is state


def states_of_an_older_version_join_in_any_order(data: st.DataObject) -> None:
    """Those hold every id of the kinds that were thought to come once."""
    a, b = data.draw(older_states), data.draw(older_states)
    joined = join.merge(a, b)
    assert joined == join.merge(b, a) == join.merge(join.bounded_state(a), join.bounded_state(b))
    assert join.merge(joined, a) is joined
    assert join.bounded_state(joined) is joined
    fact = data.draw(facts)
    assert fold.evolve(joined, fact) == join.merge(join.merge(b, fold.state_of_fact(fact)), a)


older_states = st.lists(st.integers(0, 200), min_size=1, max_size=120, unique=True).map(
    lambda ids: EmailState(
        email_id=EMAIL_ID, delayed=Mark(first=min(ids), last=max(ids), recorded=min(ids), ids=tuple(sorted(ids)))
    )
)


def a_repeat_counts_once(data: st.DataObject) -> None:
    history = data.draw(st.lists(events, min_size=1, max_size=8))
    state = folded(history * 2, fold.evolve)
    for name in join.MARKS:
        ids = {each.event_id for each in history if getattr(fold.state_of_fact(each), name) is not None}
        assert readings.count_events(state, name) == (len(ids), True)


def times_are_the_extremes_of_what_was_told(data: st.DataObject) -> None:
    history = data.draw(histories)
    state = folded(history, fold.evolve)
    for name in join.MARKS:
        marks: list[Mark] = [mark for fact in history if (mark := getattr(state_of_fact(fact), name)) is not None]
        if marks:
            mark = getattr(state, name)
            assert (mark.first, mark.last) == (min(each.first for each in marks), max(each.last for each in marks))
            assert mark.recorded == min(each.recorded for each in marks)


def only_the_last_reading_of_an_event_counts(data: st.DataObject) -> None:
    """Whatever comes first, and whether the earlier readings come at all."""
    chains = [data.draw(readings_of(f"e{number}")) for number in range(data.draw(st.integers(1, 4)))]
    history = [each for chain in chains for each in chain[data.draw(st.integers(0, len(chain) - 1)) :]]
    state = readings.effective_state(folded(data.draw(st.permutations(history)), fold.evolve))
    only_last = folded([msgspec.structs.replace(chain[-1], corrects=None) for chain in chains], fold.evolve)
    assert readings.email_status(state) == readings.email_status(only_last)
    for name in join.MARKS:
        assert readings.count_events(state, name) == readings.count_events(only_last, name)
    if all(len(chain) > 1 for chain in chains):
        assert [getattr(state, name) for name in join.DETAILS] == [getattr(only_last, name) for name in join.DETAILS]


@st.composite
def readings_of(draw: st.DrawFn, event_id: str) -> list[DeliveryEvent]:
    """One event as it was read first, and then by other mappings."""
    hardness = st.sampled_from(BounceClass)
    # Few kinds at a time, so that some corrections lead back to where an earlier one began.
    kinds = st.sampled_from(draw(st.lists(st.sampled_from(EventKind), min_size=2, max_size=3, unique=True)))
    chain = [event(draw(kinds), event_id, bounce_class=draw(hardness))]
    for revision, kind in enumerate(draw(st.lists(kinds, max_size=3)), 1):
        chain.append(
            again(chain[-1], revision, kind, machine=draw(st.sampled_from(["", "a"])), bounce_class=draw(hardness))
        )
    return chain


PROPERTIES: list[Property] = [
    order_and_repeats_do_not_matter,
    splits_do_not_matter,
    the_fold_is_the_join_of_single_facts,
    interleaved_topics_do_not_matter,
    a_clock_in_the_future_counts_as_ours,
    no_history_exceeds_the_bounds,
    states_of_an_older_version_join_in_any_order,
    a_repeat_counts_once,
    times_are_the_extremes_of_what_was_told,
    only_the_last_reading_of_an_event_counts,
]


@pytest.mark.parametrize("property_", PROPERTIES, ids=lambda each: each.__name__)
def test_the_fold_keeps(property_: Property) -> None:
    settings(max_examples=150, deadline=None)(given(st.data())(property_))()


# ── What would break it is seen to break it ─────────────────────────────────────────────────────────


def last_writer_wins(a: Mark, b: Mark) -> Mark:
    return b


def last_is_last_seen(a: Mark, b: Mark) -> Mark:
    return msgspec.structs.replace(join.join_marks(a, b), last=b.last)


def counts_instead_of_ids(a: Mark, b: Mark) -> Mark:
    return msgspec.structs.replace(join.join_marks(a, b), ids=(sum(a.ids) + sum(b.ids),))


def keeps_the_first_ids_it_sees(a: Mark, b: Mark) -> Mark:
    """A bound by order of arrival instead of by size."""
    ids = tuple(sorted(dict.fromkeys((*a.ids, *b.ids)).keys() if len(a.ids) < 3 else a.ids))
    return msgspec.structs.replace(join.join_marks(a, b), ids=ids)


def no_clamp(event_id: str, occurred_at: int, recorded_at: int) -> Mark:
    return Mark(first=occurred_at, last=occurred_at, recorded=recorded_at, ids=(id_hash(event_id),))


def first_comer_wins(a: Any, _: Any) -> Any:
    return a


def settles_by_arrival(a: Any, b: Any) -> Any:
    return a | b


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "last writer wins": lambda patch: replace_joins(patch, last_writer_wins),
    "last is the last seen": lambda patch: replace_joins(patch, last_is_last_seen),
    "a count instead of ids": lambda patch: replace_joins(patch, counts_instead_of_ids),
    "the first ids instead of the smallest": lambda patch: replace_joins(patch, keeps_the_first_ids_it_sees),
    "no clamp": lambda patch: patch.setattr(fold, "_mark", no_clamp),
    "the first request seen wins": lambda patch: replace_join(patch, "request", first_comer_wins),
    "the first bounce seen wins": lambda patch: replace_join(patch, "bounce", first_comer_wins),
    "the last settlement seen wins": lambda patch: replace_join(patch, "settled", settles_by_arrival),
    "provider ids by arrival": lambda patch: replace_join(patch, "provider_ids", lambda a, b: a + b),
    "requests of one time are not told apart": lambda patch: replace_join(
        patch, "request", lambda a, b: a if a.recorded_at <= b.recorded_at else b
    ),
    "a fact is dropped when another of its kind is known": lambda patch: replace_joins(patch, first_comer_wins),
    "the first correction seen stands": lambda patch: replace_join(patch, "corrected", first_comer_wins),
    "corrections by arrival": lambda patch: replace_join(patch, "corrected", lambda a, b: a + b),
    "corrections without revisions": lambda patch: patch.setattr(
        join, "_corrected_order", lambda each: (-each.recorded, msgspec.json.encode(each))
    ),
    "the first corrections instead of the smallest": lambda patch: replace_join(
        patch, "corrected", lambda a, b: a if len(a) >= MAX_IDS_PER_MARK else join.join_corrected(a, b)
    ),
    "the fold takes a short cut": lambda patch: patch.setattr(
        fold,
        "evolve",
        lambda state, fact: state_of_fact(fact) if state is None or state.request is None else evolve(state, fact),
    ),
}
SLOWLY_FOUND = ("no clamp", "corrections without revisions")
"""Mutations that only many examples show."""


def replace_joins(patch: pytest.MonkeyPatch, mutant: Callable[[Mark, Mark], Mark]) -> None:
    patch.setattr(join, "JOINS", dict(join.JOINS) | dict.fromkeys(join.MARKS, mutant))


def replace_join(patch: pytest.MonkeyPatch, name: str, mutant: Callable[..., object]) -> None:
    patch.setattr(join, "JOINS", dict(join.JOINS) | {name: mutant})


def search_all() -> None:
    """Each property, with the same examples at every run: a mutant must not survive by luck."""
    search = settings(
        max_examples=300,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for property_ in PROPERTIES:
        search(given(st.data())(property_))()


def test_without_a_mutation_the_search_finds_nothing() -> None:
    search_all()


@pytest.mark.parametrize(
    "mutation",
    [pytest.param(name, marks=pytest.mark.ci) if name in SLOWLY_FOUND else name for name in MUTATIONS],
)
def test_a_mutation_of_the_fold_is_caught(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        search_all()


# ── Shape ───────────────────────────────────────────────────────────────────────────────────────────


@given(histories)
def test_a_state_survives_the_codec_and_equal_states_are_equal_bytes(history: list[Fact]) -> None:
    state = folded(history, evolve)
    value = codec.encode(EMAIL_STATES, state)
    assert codec.decode(EMAIL_STATES, value) == state
    assert codec.encode(EMAIL_STATES, folded(history[::-1], evolve)) == value


@given(histories)
def test_a_fold_that_shares_no_code_says_the_same(history: list[Fact]) -> None:
    """Chaos judges the product by it; here it is held against what is seldom seen there."""
    plain = [msgspec.json.decode(msgspec.json.encode(fact)) for fact in history]
    state = codec.encode(EMAIL_STATES, folded(history, evolve))
    assert oracle.state_of(EMAIL_ID, plain) == msgspec.json.decode(state)


@given(histories)
def test_readings_depend_on_the_state_only(history: list[Fact]) -> None:
    state, other_state = folded(history, evolve), folded(history[::-1], evolve)
    for reading in (
        readings.email_status,
        readings.listed_state,
        readings.owed_words,
        readings.updated_at,
        readings.sent_at,
    ):
        assert reading(state) == reading(other_state)
    assert readings.unsettled_words(state) == readings.unsettled_words(other_state)


@given(histories, facts)
def test_what_is_owed_only_grows_but_by_corrections(history: list[Fact], fact: Fact) -> None:
    state = folded(history, evolve)
    after = evolve(state, fact)
    assert set(readings.ever_owed_words(state)) <= set(readings.ever_owed_words(after))
    if state.corrected == after.corrected:
        assert set(readings.owed_words(state)) <= set(readings.owed_words(after))
    assert set(state.settled) <= set(evolve(state, fact).settled)


@given(histories, facts)
def test_a_repeat_gives_the_very_same_state(history: list[Fact], fact: Fact) -> None:
    state = evolve(folded(history, evolve), fact)
    assert evolve(state, fact) is state


def test_nobody_grows_a_state_by_fetching_a_pixel_or_following_a_link() -> None:
    kinds = (EventKind.OPENED, EventKind.CLICKED, EventKind.UNSUBSCRIBED, EventKind.UNKNOWN)
    state = folded([event(kind, f"e{number}") for number in range(5 * MAX_IDS_PER_MARK) for kind in kinds], evolve)
    assert {len(getattr(state, name).ids) for name in ("opened", "clicked", "unsubscribed", "unknown")} == {
        MAX_IDS_PER_MARK
    }
    assert readings.count_events(state, "opened") == (MAX_IDS_PER_MARK, False)


@pytest.mark.parametrize("kind", EventKind)
def test_repetitions_of_any_kind_grow_a_state_within_bounds(kind: EventKind) -> None:
    words = dict.fromkeys(("text", "bounce_type", "bounce_subtype", "enhanced"), "x" * 100000)
    history = [
        event(kind, f"e{number}", at=1_000 - number, provider_message_id=f"{number}" + "y" * 100_000, **words)
        for number in range(1_000)
    ]
    corrections = [again(each, 1, EventKind.UNKNOWN, text="z" * 100_000) for each in history]
    assert len(codec.encode(EMAIL_STATES, folded([*history, *corrections], evolve))) < 20_000


def test_a_provider_that_names_an_email_anew_each_time_grows_it_within_bounds() -> None:
    history = [event(EventKind.DELIVERED, "e", provider_message_id=f"id{number}") for number in range(100)]
    assert len(folded(history, evolve).provider_ids) == join.MAX_PROVIDER_IDS


def test_facts_of_two_emails_never_meet() -> None:
    other = EmailState(email_id=EmailId("another"))
    with pytest.raises(ValueError, match=f"{EMAIL_ID} doesn't belong"):
        evolve(other, event(EventKind.DELIVERED))
    with pytest.raises(ValueError, match="two emails"):
        merge(other, state_of_fact(event(EventKind.DELIVERED)))
