"""The facts of one email with their places on the log, in causal order. Pure; traces and the history API use it."""

from typing import Final

import msgspec

from projections.row_changes import fact_kind, fact_occurred_at
from topics.acks import Acked
from topics.changes import Fact
from topics.conversions import ConversionResult, ConversionWord
from topics.record import Millis
from topics.requests import SendRequest


class TimelineFact(msgspec.Struct, frozen=True):
    """A fact with all its places on the log."""

    fact: Fact
    places: list[str]


def in_causal_order(timeline: list[TimelineFact]) -> list[TimelineFact]:
    """Return the timeline by the time of recording, but with no effect before its cause.

    The clocks of several machines differ by some milliseconds: the send request comes first, and a conversion's result
    after the fact for which the conversion is owed.
    """
    owed_since: dict[ConversionWord, Millis] = {}
    for entry in timeline:
        for word in _owed_by(entry.fact):
            owed_since[word] = min(entry.fact.recorded_at, owed_since.get(word, entry.fact.recorded_at))

    def sort_key(entry: TimelineFact) -> tuple[int, Millis, int, Millis, list[str]]:
        fact, at = entry.fact, entry.fact.recorded_at
        if isinstance(fact, ConversionResult):
            return 1, max(at, owed_since.get(fact.word, at)), 1, fact.attempt, entry.places
        return int(not isinstance(fact, SendRequest)), at, 0, fact_occurred_at(fact), entry.places

    return sorted(timeline, key=sort_key)


_WORD_OF_KIND: Final = {
    "opened": "open",
    "clicked": "click",
    "bounced": "bounce",
    "rejected": "bounce",
    "complained": "spam",
}


def _owed_by(fact: Fact) -> list[ConversionWord]:
    """Return the conversions that may be owed because of a fact."""
    name = _WORD_OF_KIND.get(fact_kind(fact), fact_kind(fact))
    if isinstance(fact, Acked):
        return [ConversionWord.DELIVERED] if fact.means_delivered else []
    return [ConversionWord(name)] if name in set(ConversionWord) and not getattr(fact, "machine", "") else []
