"""Scenarios with a faulty Fast Track receiver: all kinds of errors, no answer, slow answers, one dead among many."""

import asyncio
from collections import defaultdict

from tests.chaos.ledger import SETTLING
from tests.chaos.play import Play
from tests.chaos.scenarios import scenario
from tests.chaos.sinks import RETRY_AFTER
from tests.chaos.traffic import EVENT

MOODS = ("ok", "500", "429", "410", "302", "reset", "drop", "drip")


@scenario("500, 429 with Retry-After, 410, 302, reset, 200 then drop, a byte a second: a brand each", brands=len(MOODS))
async def receiver_moods(play: Play) -> None:
    receiver = play.world.receiver

    async def faults() -> None:
        receiver.moods = {str(1 + nth): mood for nth, mood in enumerate(MOODS)}
        await asyncio.sleep(15)
        # Conversions that were settled as refused stay so; all others must arrive now.
        receiver.moods = {brand: mood for brand, mood in receiver.moods.items() if mood == "410"}

    await play.while_posting(8, faults())
    play.notes.append("arrivals by mood: " + ", ".join(f"{mood} {count}" for mood, count in receiver.seen.items()))
    play.world.ledger.wrong += [f"no conversion ever met {mood}" for mood in MOODS if not receiver.seen[mood]]
    _too_early(play)


def _too_early(play: Play) -> None:
    """Record conversions that were sent again before the Retry-After of a 429 had passed."""
    refused: dict[str, float] = {}
    for row in play.world.ledger.conversions:
        if row.key in refused and row.at < refused[row.key] + RETRY_AFTER - 0.05:
            play.world.ledger.wrong.append(f"{row.key} came {row.at - refused[row.key]:.1f} s after a Retry-After")
        if row.answered == 429:
            refused[row.key] = row.answered_at


@scenario("Fast Track takes 2 s for each answer, and who waits for it is killed")
async def receiver_slow(play: Play) -> None:
    receiver = play.world.receiver

    async def faults() -> None:
        receiver.moods = {"1": "slow2", "2": "slow2"}
        await play.kill_some(max(3, play.size.kills // 2), 3.0, "emit")
        receiver.moods = {}

    await play.while_posting(max(3, play.size.kills // 2) * 3.0, faults())


@scenario("one dead receiver among 20 brands: the others' p99 stays within a factor of 2", brands=20)
async def receiver_dead(play: Play) -> None:
    """Measure before, during and after the failure, so that noise of the machine is part of the comparison."""
    stories = play.traffic.stories
    thirds = [stories[nth::3] for nth in range(3)]
    span = max(8.0, len(stories) / 60)
    p99s = []
    for nth, part in enumerate(thirds):
        play.world.receiver.moods = {"1": "hang"} if nth == 1 else {}
        if nth == 1:
            play.world.ledger.fault("hangs", "receiver")
        play.traffic.stories = part
        await play.traffic.post(span)
        await _all_but_the_dead(play)
        p99s.append(_p99(play, {story.name for story in part if story.brand != "1"}))
    play.world.receiver.moods = {}
    play.traffic.stories = stories
    well, dead = max(p99s[0], p99s[2]), p99s[1]
    play.notes.append(f"p99 of the other 19 brands: {p99s[0]:.3f} s, {dead:.3f} s with one dead, {p99s[2]:.3f} s")
    if dead > 2 * well:
        play.world.ledger.wrong.append(f"one dead receiver: the others' p99 went from {well:.3f} s to {dead:.3f} s")


async def _all_but_the_dead(play: Play) -> None:
    for _ in range(600):
        if all(story.brand == "1" for story in play.traffic.left):
            return
        await asyncio.sleep(0.1)
    play.world.ledger.wrong.append("the other brands' conversions never came to an end")


def _p99(play: Play, names: set[str]) -> float:
    """Return the 99th percentile of the seconds from a webhook's 2xx to the arrival of `delivered`."""
    ours = {play.world.ledger.accepted[name] for name in names}
    waited: dict[str, float] = defaultdict(float)
    for row in play.world.ledger.conversions:
        happened = play.traffic.event_at.get((row.email_id, EVENT["delivered"]))
        if row.email_id in ours and row.word == "delivered" and row.answered in SETTLING and happened is not None:
            waited.setdefault(row.email_id, max(0.001, row.at - happened))
    ordered = sorted(waited.values())
    return ordered[int(0.99 * (len(ordered) - 1))]
