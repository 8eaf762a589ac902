"""Let emails come and go through running roles, and see that their memory, stores and spools stop growing.

A round stands for a day: its emails are sent, answered and done, and the worker's states expire some seconds after. In
the middle of a round the gateway can't reach Kafka, so that opens go through its spool. `make soak` runs many rounds.
"""

import asyncio
import os
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import aiohttp
import psutil
import pytest

from tests.chaos import source
from tests.chaos.play import settle
from tests.chaos.servers import Servers, free_port, servers
from tests.chaos.traffic import BROWSER, LINK, Story, Traffic, stories
from tests.chaos.world import Shape, World, product_env, world
from tests.support.seeing import until

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "8"))
EMAILS = int(os.environ.get("SOAK_ROUND_EMAILS", "40"))
QUIET_DAYS = os.environ.get("SOAK_QUIET_DAYS", "0.00003")
"""Days after which a state expires: 2.6 seconds."""
OPENS = 20
"""Opens of each round that go through the spool."""
MAX_GROWTH = 1.3
MAX_MEMORY_GROWTH = 1.2
"""Of the median of the last quarter over that of the second: caches are full after the first."""
SLACK_BYTES = 4_000_000
"""What a process or a folder may grow by in any case, such as one more file of RocksDB's log."""
SLACK_STATES = 2 * EMAILS
PATIENCE_S = 180.0

Figures = dict[str, list[float]]


@pytest.fixture
async def given(server_folder: Path) -> AsyncIterator[Servers]:
    async with servers(server_folder / "soak") as made:
        yield made


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def state_count(http: aiohttp.ClientSession, port: int) -> float:
    """Return the states in the worker's store, as it estimates them."""
    async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("mailfold_states{"))


async def play_round(place: World, http: aiohttp.ClientSession, day: list[Story], given: Servers) -> None:
    """Take a day's emails from the batch to the last conversion, with an outage of the gateway's Kafka."""
    traffic = Traffic(place, http, day, random.Random(day[0].number))
    traffic.batches = 2
    await traffic.post(1.0)
    left = await settle(place, traffic, PATIENCE_S)
    assert left == []
    given.proxy.hold()
    try:
        pixels = [found[1] for html in traffic._html.values() if (found := LINK["open"].search(html))][:OPENS]
        await asyncio.gather(*(visit(http, pixel) for pixel in pixels))
        await until(lambda: spool_bytes(place) > 0, PATIENCE_S)
    finally:
        given.proxy.let_go()
    await until(lambda: spool_bytes(place) == 0, PATIENCE_S)
    await traffic.close()


async def visit(http: aiohttp.ClientSession, url: str) -> None:
    async with http.get(url, headers=BROWSER) as response:
        assert response.status == 200


def spool_bytes(place: World) -> int:
    return folder_bytes(place.folder / "gateway-1" / "spool")


async def measure(place: World, http: aiohttp.ClientSession, port: int, figures: Figures) -> None:
    for process in place.processes.all:
        assert process._process is not None
        figures[f"memory of {process.role}"].append(psutil.Process(process._process.pid).memory_info().rss)
    figures["files of worker"].append(folder_bytes(place.folder / "worker-1" / "worker"))
    figures["states of worker"].append(await state_count(http, port))


def growth(name: str, values: list[float]) -> tuple[float, float]:
    """Return the median after the beginning and the one at the end."""
    quarter = max(1, len(values) // 4)
    early, late = median(values[quarter : 2 * quarter]), median(values[-quarter:])
    print(f"{name}: {early:,.0f} after {quarter} of {len(values)} rounds, {late:,.0f} at the end")
    return early, late


def breaches(figures: Mapping[str, list[float]]) -> list[str]:
    """Return the figures that went on growing."""
    grown = []
    for name, values in figures.items():
        early, late = growth(name, values)
        slack = SLACK_STATES if name.startswith("states") else SLACK_BYTES
        limit = MAX_MEMORY_GROWTH if name.startswith("memory") else MAX_GROWTH
        if late > early * limit + slack:
            grown.append(f"{name}: {values}")
    return grown


@pytest.mark.ci
@pytest.mark.timeout(7200)
async def test_memory_stores_and_spools_of_roles_reach_a_plateau(given: Servers, tmp_path: Path) -> None:
    port = free_port()
    roles = {
        "worker": {"MAILFOLD_QUIET_DAYS": QUIET_DAYS, "MAILFOLD_OPS_PORT_WORKER": str(port)},
        "gateway": {"KAFKA_BOOTSTRAP": given.proxy.bootstrap, "MAILFOLD_APPEND_TIMEOUT": "2"},
    }
    env = product_env(given.bootstrap, given.database(), f"soak{secrets.token_hex(4)}-")
    shape = replace(Shape(), role_env=roles, tree=source.copy(tmp_path / "tree"))
    figures: Figures = defaultdict(list)
    dice = random.Random(1)
    async with world(env, tmp_path, shape) as place, aiohttp.ClientSession() as http:
        for number in range(ROUNDS):
            day = stories(EMAILS, 2, dice, start=number * EMAILS)
            await play_round(place, http, day, given)
            await measure(place, http, port, figures)
        assert place.ledger.wrong == []
        await place.processes.stop()
    assert breaches(figures) == []
