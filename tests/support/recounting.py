"""Count emails by their states one by one, without any code of the rollups."""

from collections import Counter
from collections.abc import Iterator, Sequence

from projections.metric_definitions import TIME_BOUNDS_S
from topics.events import BounceClass
from topics.join import MARKS
from topics.readings import count_events, effective_state, owed_words
from topics.states import EmailState

QUARTER_MS = 900_000
Counts = dict[tuple[bool, int, str], int]
"""Numbers by view (by event or not), quarter hour and name."""


def recount(states: Sequence[EmailState]) -> Counts:
    """Return the sums over all emails whose request is known."""
    counts: Counter[tuple[bool, int, str]] = Counter()
    for state in states:
        if state.request is not None and state.accepted is not None:
            begun = state.accepted.first
            for name, at, number in (*counted_marks(state), *counted_conversions(state), *counted_times(state, begun)):
                counts[False, begun // QUARTER_MS, name] += number
                if not name.startswith(("opens_", "clicks_")):
                    counts[True, max(at, begun) // QUARTER_MS, name] += number
    return dict(counts)


def first_times(state: EmailState) -> dict[str, int]:
    whole = effective_state(state)
    return {name: mark.first for name in MARKS if (mark := getattr(whole, name)) is not None}


ALIKE = {
    **{name: name for name in ("accepted", "delivered", "dropped", "failed", "complained", "unsubscribed")},
    **{"opened_human": "opened", "opened_machine": "opened_machine"},
    **{"clicked_human": "clicked", "clicked_machine": "clicked_machine"},
}
EVENTS = {
    **{"opens_human": "opened", "opens_machine": "opened_machine"},
    **{"clicks_human": "clicked", "clicks_machine": "clicked_machine"},
}
SUMMARIES = {
    "sent": ("sent", "queued", "delayed"),
    "deferred": ("deferred", "delayed"),
    "opened": ("opened", "opened_machine"),
    "clicked": ("clicked", "clicked_machine"),
}
NO_ATTEMPT = {"accepted", "dropped", "failed", "unsubscribed", "replied", "unknown"}


def counted_marks(state: EmailState) -> Iterator[tuple[str, int, int]]:
    first = first_times(state)
    yield from ((name, first[mark], 1) for name, mark in ALIKE.items() if mark in first)
    yield from ((name, first[mark], count_events(state, mark)[0]) for name, mark in EVENTS.items() if mark in first)
    for name, marks in (*SUMMARIES.items(), ("attempted", tuple(set(first) - NO_ATTEMPT))):
        if present := [first[mark] for mark in marks if mark in first]:
            yield name, min(present), 1
    if "bounced" in first:
        bounce = effective_state(state).bounce
        is_hard = bounce is not None and bounce.bounce_class is BounceClass.HARD
        yield "bounced_hard" if is_hard else "bounced_soft", first["bounced"], 1


def counted_conversions(state: EmailState) -> Iterator[tuple[str, int, int]]:
    first = first_times(state)
    marks = {"open": "opened", "click": "clicked", "bounce": "bounced", "spam": "complained"}
    for word in owed_words(state):
        yield "conversions_owed", first[marks.get(word, word)], 1
    ends = {"delivered": "told", "refused": "refused", "given_up": "dead"}
    for settlement in state.settled.values():
        yield f"conversions_{ends[settlement.outcome]}", settlement.at, 1


def counted_times(state: EmailState, begun: int) -> Iterator[tuple[str, int, int]]:
    first = first_times(state)
    for name, mark in (("deliver", "delivered"), ("open", "opened"), ("click", "clicked")):
        if mark in first:
            took_s = max(first[mark] - begun, 0) / 1000
            yield f"time_to_{name}/{len([bound for bound in TIME_BOUNDS_S if took_s > bound])}", first[mark], 1
