"""Each named crash point: the process exits there, is started again, and nothing is lost.

One world a role-set of armed points; the points fire in the middle of the traffic. Afterwards the
judge reads sinks, topics and tables, as after every other kind of chaos.
"""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from pipeline.runtime.crashpoints import CRASH_POINTS
from pipeline.settings import Settings
from tests.chaos.judge import judge
from tests.chaos.play import settle
from tests.chaos.traffic import Traffic, stories
from tests.chaos.world import Shape, product_env, world

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
    ("fold.in-transaction",),
)


ELSEWHERE = ("correlate.before-unpark",)
"""Our sandbox repeats what we embed, so no event is looked up here: see tests/integration/test_correlation.py."""


def test_every_crash_point_has_a_test() -> None:
    assert sorted([*(name for points in WORLDS for name in points), *ELSEWHERE]) == sorted(CRASH_POINTS)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "points",
    [points if points is WORLDS[0] else pytest.param(points, marks=pytest.mark.ci) for points in WORLDS],
    ids="+".join,
)
async def test_nothing_is_lost_when_process_exits_at_crash_point(
    points: tuple[str, ...], settings: Settings, tmp_path: Path
) -> None:
    fuses: Mapping[str, Path] = {point: tmp_path / f"{point}.fuse" for point in points}
    role_env = {
        ROLE_OF[point.split(".")[0]]: {"MAILFOLD_CRASH_AT": point, "MAILFOLD_CRASH_ONCE": str(fuse)}
        for point, fuse in fuses.items()
    }
    env = product_env(settings.kafka_bootstrap, settings.database_url.get_secret_value(), settings.topic_prefix)
    env["MAILFOLD_PARTITIONS"] = str(settings.partitions)
    dice = random.Random(7)
    all_stories = stories(EMAILS, 2, dice)
    async with world(env, tmp_path, Shape(role_env=role_env)) as place, aiohttp.ClientSession() as http:
        traffic = Traffic(place, http, all_stories, dice)
        posting = asyncio.create_task(traffic.post(4))
        await asyncio.sleep(2)
        for fuse in fuses.values():
            fuse.touch()
        await posting
        left = await settle(place, traffic, 120)
        await traffic.close()
        await place.processes.stop()
        for role, _ in place.ledger.exits:
            place.ledger.fault("crash point", role)
        verdict = await judge(place, all_stories)

    assert left == []
    blown = {point for point, fuse in fuses.items() if not fuse.exists()}
    assert blown == set(points), f"never reached: {set(points) - blown}"
    assert len(place.ledger.exits) >= len(points)
    assert list(verdict.shown()) == []
