"""The checks after every scenario, on ledgers, topics and tables; all breaches are reported, not only the first."""

import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.chaos import fold, oracle
from tests.chaos.fold import Fact
from tests.chaos.ledger import SETTLING, Arrival
from tests.chaos.oracle import Place
from tests.chaos.traffic import Story
from tests.chaos.world import WINDOW, World

SHOWN = 5
SERVERS = ("kafka", "postgres")


@dataclass
class Verdict:
    """The breaches by guarantee, and how many emails and conversions were sent twice."""

    breaches: dict[str, list[str]] = field(default_factory=dict)
    mails_twice: int = 0
    conversions_twice: int = 0

    def add(self, hold: str, breaches: Iterable[str]) -> None:
        if rows := list(breaches):
            self.breaches.setdefault(hold, []).extend(rows)

    def shown(self) -> Iterator[str]:
        """Yield the breaches, a few of each guarantee."""
        for hold, rows in self.breaches.items():
            yield from (f"{hold}: {row[:600]}" for row in rows[:SHOWN])
            if len(rows) > SHOWN:
                yield f"{hold}: … and {len(rows) - SHOWN} more"


async def judge(world: World, stories: Collection[Story]) -> Verdict:
    """Check all guarantees. The roles must be stopped and the servers running."""
    verdict = Verdict()
    verdict.add("nothing odd on the way", world.ledger.wrong)
    _check_accepted(world, stories, verdict)
    _check_mails(world, stories, verdict)
    _check_conversions(world, stories, verdict)
    poison = set(world.ledger.poison)
    facts = await oracle.facts(world.bootstrap, world.prefix, poison)
    verdict.add(
        "states = a plain fold", _check_states(facts, await oracle.latest_states(world.bootstrap, world.prefix))
    )
    verdict.add("changes tell every fact", _check_changes(facts, await oracle.changes(world.bootstrap, world.prefix)))
    verdict.add("timeline = the log", _check_timeline(facts, world.url))
    verdict.add("dead letters", await _check_dead_letters(world, poison))
    verdict.add("nothing given up", map(str, oracle.dead_jobs(world.url)))
    verdict.add("rebuilt = grown", _check_rebuild(world))
    return verdict


def _check_accepted(world: World, stories: Collection[Story], verdict: Verdict) -> None:
    names = {story.name: story for story in stories}
    statuses = oracle.statuses(world.url)
    verdict.add("all accepted", (f"{name} was never accepted" for name in names.keys() - world.ledger.accepted.keys()))
    verdict.add(
        "accepted ⊆ history",
        (
            f"{name} {email_id}: {statuses.get(email_id)}, should be {names[name].status}"
            for name, email_id in world.ledger.accepted.items()
            if statuses.get(email_id) != names[name].status
        ),
    )


def _check_mails(world: World, stories: Collection[Story], verdict: Verdict) -> None:
    ids: dict[str, set[str]] = defaultdict(set)
    for mail in world.ledger.mails:
        ids[mail.to].add(mail.message_id)
    expected = {story.address for story in stories if story.words != ("bounce",)}
    verdict.add("every mail goes out", (f"nothing came to {to}" for to in expected - ids.keys()))
    verdict.add("every mail goes out", (f"{to} got a mail" for to in ids.keys() - expected))
    verdict.add("one Message-ID per email", (f"{to}: {of_one}" for to, of_one in ids.items() if len(of_one) > 1))
    if len(set.union(set(), *ids.values())) < len(ids):
        verdict.add("one Message-ID per email", ["two emails share one"])
    verdict.mails_twice = len(world.ledger.mails) - len(ids)
    _check_repeats(world, "dispatch", verdict.mails_twice, "mails", verdict)


def _check_repeats(world: World, role: str, twice: int, what: str, verdict: Verdict) -> None:
    """Check that repeats stay within one window per kill; a fault of a server counts for every process of the role."""
    of_role = len(world.processes.of(role))
    limit = WINDOW * (world.ledger.hit(role) + of_role * world.ledger.hit(*SERVERS))
    if twice > limit:
        verdict.add("duplicates ≤ kills × window", [f"{twice} {what} went out twice, {limit} may"])


def _check_conversions(world: World, stories: Collection[Story], verdict: Verdict) -> None:
    names = {email_id: name for name, email_id in world.ledger.accepted.items()}
    by_name = {story.name: story for story in stories}
    arrived: dict[str, list[Arrival]] = defaultdict(list)
    for row in world.ledger.conversions:
        arrived[names.get(row.email_id, row.email_id)].append(row)
    verdict.add("conversions of our emails only", (f"of {name}" for name in arrived.keys() - by_name.keys()))
    for story in stories:
        rows = arrived.get(story.name, [])
        verdict.add("owed ⊆ delivered, in order", _check_order(story, rows))
        verdict.add("same id, same body", _check_copies(story, world.ledger.accepted.get(story.name, ""), rows))
        settled = [row.word for row in rows if row.answered in SETTLING]
        verdict.conversions_twice += len(settled) - len(set(settled))
    _check_repeats(world, "emit", verdict.conversions_twice, "conversions", verdict)


def _check_order(story: Story, rows: list[Arrival]) -> Iterator[str]:
    """Yield words that never arrived, or arrived before the previous one was settled."""
    first = {row.word: row.at for row in reversed(rows)}
    settled: dict[str, float] = {}
    for row in sorted(rows, key=lambda one: one.answered_at):
        if row.answered in SETTLING:
            settled.setdefault(row.word, row.answered_at)
    if missing := [word for word in story.words if word not in settled]:
        yield f"{story.name}: {', '.join(missing)} never arrived"
    if extra := first.keys() - set(story.words):
        yield f"{story.name}: {', '.join(extra)} was never owed"
    for before, after in zip(story.words, story.words[1:], strict=False):
        if after in first and (before not in settled or first[after] < settled[before]):
            yield f"{story.name}: {after} came before {before} was settled"


def _check_copies(story: Story, email_id: str, rows: list[Arrival]) -> Iterator[str]:
    for word in {row.word for row in rows}:
        of_word = [row for row in rows if row.word == word]
        if len({row.key for row in of_word}) > 1 or not of_word[0].key:
            yield f"{story.name} {word}: keys { ({row.key for row in of_word}) }"
        if len({row.body for row in of_word}) > 1:
            yield f"{story.name} {word}: told with different bodies"
        if not of_word[0].body.startswith(f'{{"activity":{story.activity},') or of_word[0].email_id != email_id:
            yield f"{story.name} {word}: the activity must come back byte for byte: {of_word[0].body[:300]}"
        if of_word[0].brand != story.brand:
            yield f"{story.name} {word}: went to brand {of_word[0].brand}, not {story.brand}"


def _check_states(facts: dict[str, dict[Place, Fact]], states: dict[str, dict[str, Any]]) -> Iterator[str]:
    for email_id in facts.keys() - states.keys():
        yield f"{email_id} has no state on the changelog"
    for email_id in states.keys() - facts.keys():
        yield f"{email_id} has a state and no facts"
    for email_id in facts.keys() & states.keys():
        expected, state = fold.state_of(email_id, facts[email_id].values()), states[email_id]
        if state != expected:
            differing = sorted(k for k in expected.keys() | state.keys() if expected.get(k) != state.get(k))
            differences = ", ".join(f"{name} {state.get(name)} ≠ {expected.get(name)}" for name in differing)
            yield f"{email_id}: (found ≠ expected) {differences[:600]}"


def _check_changes(facts: dict[str, dict[Place, Fact]], changes: list[dict[str, Any]]) -> Iterator[str]:
    facts_in_changes: dict[Place, Fact] = {}
    for change in changes:
        for applied in change["facts"]:
            topic, partition, offset = applied["place"]
            facts_in_changes[topic, partition, offset] = applied["fact"]
    expected = {place: fact for of_one in facts.values() for place, fact in of_one.items()}
    for place in sorted(expected.keys() ^ facts_in_changes.keys()):
        yield f"{place} is {'nowhere in the changes' if place in expected else 'in a change but not on the log'}"
    for place in sorted(expected.keys() & facts_in_changes.keys()):
        if expected[place] != facts_in_changes[place]:
            yield f"{place}: the change tells it differently"


def _check_timeline(facts: dict[str, dict[Place, Fact]], url: str) -> Iterator[str]:
    query = "select email_id::text, count(*) from projections.timeline group by email_id"
    counts = dict(oracle.table(url, query))
    for email_id, of_one in facts.items():
        expected = len({fold.event_of(fact) for fact in of_one.values()})
        if counts.get(email_id) != expected:
            yield f"{email_id}: {counts.get(email_id)} moments, {expected} facts"


async def _check_dead_letters(world: World, poison: set[Place]) -> list[str]:
    """Return invalid records without a dead letter, and dead letters of other records."""
    rows = await oracle.dump(world.bootstrap, world.prefix, "dead-letters")
    dead_letters = [msgspec.msgpack.decode(row.value or b"\xc0") for row in rows]
    sources = {
        (dead_letter["source"][0], dead_letter["source"][1], dead_letter["source"][2]): dead_letter
        for dead_letter in dead_letters
    }
    lost = [f"{place}: poison without a dead letter" for place in sorted(poison - sources.keys())]
    return lost + [
        f"{place}: a dead letter ({dead_letter['role']}: {dead_letter['reason']}: {dead_letter['error'][:200]})"
        for place, dead_letter in sorted(sources.items())
        if place not in poison
    ]


def _check_rebuild(world: World) -> list[str]:
    try:
        world.cli("rebuild", "--check", patience=900, tree=world.newest_tree)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return [str(error)[-1500:]]
    return []
