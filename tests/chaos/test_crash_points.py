"""Each named crash point: the process exits there, is started again, and nothing is lost.

One world a role-set of armed points; the points fire in the middle of the traffic. Afterwards the
oracle reads sinks, topics and tables.
"""

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from pipeline.crashpoints import NAMES
from pipeline.settings import Settings
from tests.chaos import oracle
from tests.chaos.world import World, eventually, world

EMAILS = 60

ROLE_OF = {
    "normalize": "worker",
    "fold": "worker",
    "dispatch": "dispatch",
    "emit": "emit",
    "project": "project",
    "gateway": "gateway",
}
WORLDS = (
    (
        "normalize.before-ack",
        "dispatch.after-250",
        "emit.after-2xx",
        "project.between-rows-and-offset",
        "gateway.between-content-and-request",
    ),
    ("fold.before-ack", "dispatch.after-ack", "emit.after-result", "project.after-commit", "gateway.before-answer"),
    ("fold.before-store",),
)


def test_every_named_crash_point_is_tried() -> None:
    assert sorted(name for points in WORLDS for name in points) == sorted(NAMES)


def environment(settings: Settings) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "MAILFOLD_SECRET": settings.secret.get_secret_value(),
        "MAILFOLD_TOPIC_PREFIX": settings.topic_prefix,
        "MAILFOLD_PARTITIONS": str(settings.partitions),
        "MAILFOLD_DATA_DIR": str(settings.data_dir),
        "MAILFOLD_ALLOW_PRIVATE_DESTINATIONS": "true",
        "MAILFOLD_LEASE_SECONDS": "2",
        "FAST_TRACK_KEY": "the-key-fast-track-gave",
    }


def address(number: int) -> str:
    return f"{'nobody' if number % 7 == 0 else 'player'}{number}@example.test"


def message(number: int) -> str:
    """A message as Fast Track posts it; the activity has an integer beyond 64 bits and a field nobody documented."""
    activity = (
        f'{{"id":"a-{number}","brand_id":{1 + number % 2},"user_id":"u{number}","internal_user_id":{10**20 + number},'
        f'"activity_id":3,"action_group_id":4,"trigger_hash":"h\\u00e9","action_id":5,"undocumented":{{"n":1.50}}}}'
    )
    rest = {
        "subject": f"Hello {number}",
        "content": f'<p>Hi <a href="https://example.test/{number}">there</a></p>',
        "email": address(number),
        "sender_name": "Acme",
        "sender_address": "news@acme.test",
        "replyto_address": "reply@acme.test",
    }
    return f'{{"activity":{activity},{json.dumps(rest)[1:]}'


def expected_words(number: int) -> list[str]:
    """What Fast Track is owed for one email, in the order in which the test lets it happen."""
    if number % 7 == 0:
        return ["bounce"]
    return [
        "delivered",
        *(["open"] if number % 3 == 0 else []),
        *(["click"] if number % 5 == 0 else []),
        *(["spam"] if number % 11 == 0 else []),
    ]


def expected_status(number: int) -> str:
    words = {"bounce": "bounced", "delivered": "delivered", "open": "opened", "click": "clicked", "spam": "complained"}
    return words[expected_words(number)[-1]]


async def live_through(place: World, http: aiohttp.ClientSession) -> None:
    """Play recipients and provider: each step only after Fast Track heard of the one before, so order is known."""
    told: set[tuple[str, str]] = set()
    by_email: dict[str, int] = {}

    async def step(number: int) -> None:
        email_id = place.ledger.accepted[f"a-{number}"]
        by_email[email_id] = number
        for word in expected_words(number):
            if word == "bounce":
                continue
            await eventually(
                f"mail {number} at the sink", lambda: any(to == address(number) for to, _, _ in place.ledger.mails)
            )
            html = next(html for to, _, html in place.ledger.mails if to == address(number))
            await happen(place, http, word, email_id, html)
            await eventually(
                f"{word} of {number} at Fast Track",
                lambda word=word: any(row[:2] == (email_id, word) for row in place.ledger.conversions),  # type: ignore[misc]
                90,
            )
            told.add((email_id, word))

    await asyncio.gather(*(step(number) for number in range(EMAILS)))


async def happen(place: World, http: aiohttp.ClientSession, word: str, email_id: str, html: str) -> None:
    """Let one thing happen by its real road; a provider tells everything twice."""
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
    if word in ("open", "click"):
        pattern = r'src="([^"]+/o/[^"]+)"' if word == "open" else r'href="([^"]+/c/[^"]+)"'
        found = re.search(pattern, html)
        assert found is not None, html
        while True:
            try:
                async with http.get(found[1], headers=browser, allow_redirects=False) as response:
                    if response.status < 400:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    event = {
        "event": {"delivered": "delivered", "spam": "spamreport"}[word],
        "email": "x@example.test",
        "timestamp": 1_790_000_000,
        "sg_event_id": f"{word}-{email_id}",
        "sg_message_id": "s",
        "mailfold_email_id": email_id,
    }
    await place.post_events(http, [event, event])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("points", WORLDS, ids="+".join)
async def test_nothing_is_lost_where_a_process_exits_between_two_writes(
    points: tuple[str, ...], settings: Settings, tmp_path: Path
) -> None:
    fuses: Mapping[str, Path] = {point: tmp_path / f"{point}.fuse" for point in points}
    role_env = {
        ROLE_OF[point.split(".")[0]]: {"MAILFOLD_CRASH_AT": point, "MAILFOLD_CRASH_ONCE": str(fuse)}
        for point, fuse in fuses.items()
    }
    async with world(environment(settings), tmp_path, role_env) as place, aiohttp.ClientSession() as http:
        messages = [message(number) for number in range(EMAILS)]
        await place.post_batch(http, messages[: EMAILS // 3])
        for fuse in fuses.values():
            fuse.touch()
        await place.post_batch(http, messages[EMAILS // 3 :])
        await live_through(place, http)
        await eventually("no job is open", lambda: not oracle.open_jobs(place.env["DATABASE_URL"]))
        await eventually("every reader has caught up", lambda: _caught_up(settings))
        took = place.stop()

    blown = {point for point, fuse in fuses.items() if not fuse.exists()}
    assert blown == set(points), f"never reached: {set(points) - blown}"
    assert len(place.ledger.crashes) >= len(points)
    assert max(took.values()) < 10, f"SIGTERM must end every role within 10 s: {took}"
    await judge(place, settings)


async def _caught_up(settings: Settings) -> bool:
    return not await oracle.lag(
        settings.kafka_bootstrap, settings.database_url.get_secret_value(), settings.topic_prefix
    )


async def judge(place: World, settings: Settings) -> None:
    """Everything that must hold, read from sinks, topics and tables."""
    url, ledger = settings.database_url.get_secret_value(), place.ledger
    assert len(ledger.accepted) == EMAILS
    oracle.check_history(url, {ledger.accepted[f"a-{number}"]: expected_status(number) for number in range(EMAILS)})
    everything = await oracle.facts(settings.kafka_bootstrap, settings.topic_prefix)
    assert set(everything) == set(ledger.accepted.values())
    oracle.check_states(everything, await oracle.latest_states(settings.kafka_bootstrap, settings.topic_prefix))
    judge_mails(place)
    judge_conversions(place)
    assert await oracle.dump(settings.kafka_bootstrap, settings.topic_prefix + "dead-letters") == []


def judge_mails(place: World) -> None:
    """Each deliverable email arrived; twice only with the same Message-ID, and seldom."""
    ids = defaultdict(set)
    for to, message_id, _ in place.ledger.mails:
        ids[to].add(message_id)
    assert set(ids) == {address(number) for number in range(EMAILS) if number % 7}
    assert all(len(of_one) == 1 for of_one in ids.values())
    assert len({next(iter(of_one)) for of_one in ids.values()}) == len(ids)
    doubles = len(place.ledger.mails) - len(ids)
    assert doubles <= 64 * place.ledger.crashes.count("dispatch"), f"{doubles} mails went out twice"


def judge_conversions(place: World) -> None:
    """Each owed word arrived, in order, with the activity as it was sent; twice only with the same key."""
    names = {email_id: int(name[2:]) for name, email_id in place.ledger.accepted.items()}
    first_seen: dict[str, list[str]] = defaultdict(list)
    for email_id, word, key, activity in place.ledger.conversions:
        number = names[email_id]
        assert message(number).startswith(f'{{"activity":{activity},'), "the activity must come back byte for byte"
        assert key
        if word not in first_seen[email_id]:
            first_seen[email_id].append(word)
    assert {names[email_id]: words for email_id, words in first_seen.items()} == {
        number: expected_words(number) for number in range(EMAILS)
    }
    keys = {(email_id, word): key for email_id, word, key, _ in place.ledger.conversions}
    assert len(set(keys.values())) == len(keys)
    copies = Counter((email_id, word, key) for email_id, word, key, _ in place.ledger.conversions)
    doubles = sum(count - 1 for count in copies.values())
    assert len(copies) == len(keys), "one conversion, two keys"
    assert doubles <= 64 * place.ledger.crashes.count("emit"), f"{doubles} conversions went out twice"
