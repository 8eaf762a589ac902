"""Scenarios with a cluster of three brokers, of which one or all are killed, frozen or restarted under load."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import aiohttp
from aiokafka.admin import AIOKafkaAdminClient

from tests.chaos.by_servers import fill
from tests.chaos.ledger import Post
from tests.chaos.play import Play
from tests.chaos.scenarios import scenario
from tests.chaos.servers import ClusterServers
from tests.chaos.world import BATCH_PATH
from tests.support.kafka_cluster import BROKERS, KafkaCluster

BATCHES = 300
"""Batches of a run: so many that each second has some, and the seconds that refuse can be counted."""
BACK_WITHIN_S = 30.0
"""Seconds after the brokers are back within which batches are taken and conversions arrive."""
REFUSED_MAX_S = 15.0
"""Seconds for which posts may be refused, whatever one broker does."""
OUTAGE_S = 75.0
FREEZE_S = 75.0
SECOND_FREEZE_S = 40.0
DEATH_S = 30.0
FULL_S = 30.0
HAMMER_PER_S = 150
HAMMERED_AFTER_S = 10.0
"""Seconds for which the client goes on after the brokers are back."""
PROBE_INTERVAL_S = 0.5
SMALL_DISK_BROKER = 1
SUPERVISED_S = 10

Fault = Callable[[Play, KafkaCluster], Awaitable[None]]


def _broker_scenario(what: str, span: float, fault: Fault, *, one: bool = True, own_disk: str = "") -> None:
    """Register a scenario; ``one``: whether a single broker is at fault, so that posts are soon taken again."""

    async def run(play: Play) -> None:
        assert isinstance(play.servers, ClusterServers)
        cluster, play.traffic.batches = play.servers.cluster, BATCHES

        async def faults() -> None:
            await play.at_work()
            began = time.time()
            async with _probing(play):
                await fault(play, cluster)
                await _note_recovery(play, cluster)
            _note_gaps(play, began, one=one)

        await play.while_posting(span, faults())

    run.__name__ = fault.__name__.removeprefix("_")
    scenario(what, brokers=BROKERS, own_disk=own_disk)(run)


async def _broker_frozen(play: Play, cluster: KafkaCluster) -> None:
    number = play.dice.randint(1, BROKERS)
    play.world.ledger.fault(f"SIGSTOP {FREEZE_S:.0f} s", "kafka")
    cluster.freeze(number)
    await asyncio.sleep(FREEZE_S)
    cluster.thaw(number)


async def _broker_killed(play: Play, cluster: KafkaCluster) -> None:
    await _killed(play, cluster, play.dice.randint(1, BROKERS))


async def _coordinator_killed(play: Play, cluster: KafkaCluster) -> None:
    await _killed(play, cluster, await _coordinator(f"{play.world.prefix}mailfold", cluster.bootstrap))


async def _killed(play: Play, cluster: KafkaCluster, number: int) -> None:
    play.world.ledger.fault("kill -9", "kafka")
    await asyncio.to_thread(cluster.kill, number)
    await asyncio.sleep(DEATH_S)
    cluster.start(number)


async def _brokers_rolled(play: Play, cluster: KafkaCluster) -> None:
    for number in range(1, BROKERS + 1):
        play.world.ledger.fault("SIGTERM", "kafka")
        await asyncio.to_thread(cluster.stop, number)
        cluster.start(number)
        await _until_ready(cluster)
        await asyncio.sleep(5)


async def _brokers_killed(play: Play, cluster: KafkaCluster) -> None:
    play.world.ledger.fault("kill -9 of all", "kafka")
    async with _hammer(play):
        await asyncio.to_thread(cluster.kill, *range(1, BROKERS + 1))
        await asyncio.sleep(OUTAGE_S)
        cluster.start()
        await _until_ready(cluster)
        await asyncio.sleep(HAMMERED_AFTER_S)


async def _broker_disk_full(play: Play, cluster: KafkaCluster) -> None:
    """Fill one broker's disk, which ends it, make room after a while, and start it again as a supervisor would."""
    ballast = play.servers.folder / "kafka" / f"broker-{SMALL_DISK_BROKER}" / "ballast"
    await asyncio.to_thread(fill, ballast)
    play.world.ledger.fault("disk full", "kafka")
    await asyncio.sleep(FULL_S)
    ended = "ended" if not cluster.is_running(SMALL_DISK_BROKER) else "went on"
    play.notes.append(f"the broker without disk space {ended}")
    ballast.unlink()
    for _ in range(SUPERVISED_S):  # without its only log folder a broker may take a while to end
        cluster.start()
        await asyncio.sleep(1)


async def _broker_frozen_at_min_isr(play: Play, cluster: KafkaCluster) -> None:
    """Freeze a broker while another is down: what is left is fewer than `min.insync.replicas`, and no quorum."""
    dead, frozen = play.dice.sample(range(1, BROKERS + 1), 2)
    play.world.ledger.fault("kill -9", "kafka")
    await asyncio.to_thread(cluster.kill, dead)
    await asyncio.sleep(DEATH_S)
    play.world.ledger.fault(f"SIGSTOP {SECOND_FREEZE_S:.0f} s", "kafka")
    cluster.freeze(frozen)
    await asyncio.sleep(SECOND_FREEZE_S)
    cluster.thaw(frozen)
    await _note_recovery(play, cluster, *({1, 2, 3} - {dead}))
    cluster.start(dead)


async def _until_ready(cluster: KafkaCluster, *numbers: int) -> None:
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(cluster.is_ready, *numbers):
            await asyncio.sleep(0.1)


async def _note_recovery(play: Play, cluster: KafkaCluster, *numbers: int) -> None:
    """Measure from the moment when these brokers, or all, answer until a batch is taken and a conversion arrives."""
    await _until_ready(cluster, *numbers)
    back, told, ledger = time.time(), len(play.world.ledger.conversions), play.world.ledger
    signs: dict[str, Callable[[], bool]] = {
        "a batch was taken": lambda: any(post.began > back and post.status == 200 for post in ledger.posts),
        "a conversion arrived": lambda: len(ledger.conversions) > told or not play.traffic.left,
    }
    for what, is_back in signs.items():
        while not is_back() and time.time() < back + 4 * BACK_WITHIN_S:
            await asyncio.sleep(0.1)
        took = time.time() - back
        play.notes.append(f"{what} {took:.1f} s after {len(numbers) or BROKERS} brokers answered")
        if took > BACK_WITHIN_S:
            ledger.wrong.append(f"{took:.0f} s after the brokers were back {what}, or not even then")


def _note_gaps(play: Play, since: float, *, one: bool) -> None:
    """Note for how long posts were refused and conversions were held up."""
    ledger = play.world.ledger
    refused = longest_refusal([post for post in ledger.posts if post.ended > since])
    held = longest_gap([since, *(row.at for row in ledger.conversions if row.at > since)])
    play.notes.append(f"posts were refused for {refused:.1f} s, conversions held up for {held:.1f} s, at the longest")
    if one and refused > REFUSED_MAX_S:
        ledger.wrong.append(f"posts were refused for {refused:.0f} s because of one broker")


def longest_refusal(posts: Iterable[Post]) -> float:
    """Return the seconds from the first refused post to the next one that was taken, at the longest."""
    longest, first_refused = 0.0, None
    for post in sorted(posts, key=lambda post: post.ended):
        if post.status != 200:
            first_refused = post.began if first_refused is None else first_refused
        elif first_refused is not None and post.began > first_refused:
            longest, first_refused = max(longest, post.ended - first_refused), None
    return longest


def longest_gap(times: Sequence[float]) -> float:
    """Return the longest time between two that follow each other."""
    ordered = sorted(times)
    return max((later - earlier for earlier, later in itertools.pairwise(ordered)), default=0.0)


async def _coordinator(group: str, bootstrap: str) -> int:
    """Return the number of the broker that coordinates a consumer group."""
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return int(await admin.find_coordinator(group))
    finally:
        await admin.close()


@contextlib.asynccontextmanager
async def _hammer(play: Play) -> AsyncIterator[None]:
    """Repeat a message many times a second, as a client does that retries without a pause."""
    async with _beside(_repeat(play, "[" + play.traffic.stories[0].message() + "]")):
        yield


@contextlib.asynccontextmanager
async def _probing(play: Play) -> AsyncIterator[None]:
    """Repeat a message until it is accepted, again and again: the traffic may end before the brokers are back."""

    async def probe() -> None:
        while True:
            await play.world.post_batch(play.traffic.http, [play.traffic.stories[0].message()])
            await asyncio.sleep(PROBE_INTERVAL_S)

    async with _beside(probe()):
        yield


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _repeat(play: Play, body: str) -> None:
    headers = {"X-Api-Key": play.world.key, "Content-Type": "application/json"}
    posts: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def post() -> None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=15)
                async with http.post(
                    play.world.gateway + BATCH_PATH, data=body, headers=headers, timeout=timeout
                ) as got:
                    await got.read()

        while True:
            task = asyncio.create_task(post())
            posts.add(task)
            task.add_done_callback(posts.discard)
            await asyncio.sleep(1 / HAMMER_PER_S)


_broker_scenario("one of three brokers is frozen for 75 s", FREEZE_S + 45, _broker_frozen)
_broker_scenario("one of three brokers dies by kill -9 and comes back after 30 s", DEATH_S + 40, _broker_killed)
_broker_scenario("the broker that coordinates the workers dies and comes back", DEATH_S + 40, _coordinator_killed)
_broker_scenario("three brokers are stopped and started again, one after the other", 90, _brokers_rolled)
_broker_scenario(
    "the disk under one of three brokers is full for 30 s",
    FULL_S + 45,
    _broker_disk_full,
    own_disk=f"kafka/broker-{SMALL_DISK_BROKER}",
)
_broker_scenario(
    "one of three brokers is down and another is frozen for 40 s: fewer than min.insync.replicas are left",
    DEATH_S + SECOND_FREEZE_S + 40,
    _broker_frozen_at_min_isr,
    one=False,
)
_broker_scenario(
    "three brokers die by kill -9 and come back after 75 s, and a client retries 150 times a second",
    OUTAGE_S + 60,
    _brokers_killed,
    one=False,
)
