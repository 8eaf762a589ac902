"""Scenarios with processes that are killed, stopped, frozen, added and removed."""

import asyncio
import time
from collections.abc import Mapping

import aiokafka
import psycopg

from tests.chaos import oracle
from tests.chaos.play import Play
from tests.chaos.processes import Process
from tests.chaos.scenarios import PAIRS, scenario

GAP = 1.6
"""Average seconds between two kills, enough for a killed process to restart and be killed again."""


@scenario("kill -9 of a random process, again and again")
async def kill_any(play: Play) -> None:
    kills = play.size.kills
    await play.while_posting(kills * GAP, play.kill_some(kills, GAP))


@scenario("kill -9 of a random one of two of each role", counts=PAIRS)
async def kill_pairs(play: Play) -> None:
    kills = play.size.kills
    await play.while_posting(kills * GAP, play.kill_some(kills, GAP))


@scenario("kill -9 of all processes at once")
async def kill_all(play: Play) -> None:
    async def faults() -> None:
        for _ in range(max(2, play.size.kills // 5)):
            await asyncio.sleep(play.dice.uniform(2, 4))
            play.world.ledger.fault("kill -9", "all")
            for process in play.world.processes.targets():
                process.kill()

    await play.while_posting(max(2, play.size.kills // 5) * 3.0, faults())


@scenario("SIGTERM of a random process: it ends by itself within 10 s, with exit code 0", counts=PAIRS)
async def terminate(play: Play) -> None:
    async def faults() -> None:
        for _ in range(play.size.kills):
            await asyncio.sleep(play.dice.uniform(0.5, 2))
            process = play.dice.choice(play.world.processes.targets())
            play.world.ledger.fault("SIGTERM", process.role)
            await play.world.processes.end(process)
            process.start()

    await play.while_posting(play.size.kills * 2.0, faults())


@scenario("SIGSTOP of one of two of every role for 15 s, three times; the other goes on", counts=PAIRS)
async def freeze_short(play: Play) -> None:
    async def faults() -> None:
        for round_ in range(3):
            await asyncio.sleep(play.dice.uniform(1, 3))
            frozen = [process for process in play.world.processes.all if process.name.endswith(str(1 + round_ % 2))]
            await play.freeze(play.size.short_freeze, *frozen)

    await play.while_posting(3 * (play.size.short_freeze + 2), faults())


@scenario("SIGSTOP of one of two of every role for 90 s; the other goes on", counts=PAIRS)
async def freeze_long(play: Play) -> None:
    async def faults() -> None:
        await asyncio.sleep(play.dice.uniform(2, 4))
        frozen = [process for process in play.world.processes.all if process.name.endswith("1")]
        await play.freeze(play.size.long_freeze, *frozen)

    await play.while_posting(play.size.long_freeze + 6, faults())


@scenario("workers join and leave every 3 s while a backlog is worked off", counts={"worker": 2})
async def churn(play: Play) -> None:
    processes = play.world.processes
    for worker in processes.of("worker"):
        await processes.end(worker)
    await play.traffic.post(1)
    await _until_quiet(play)
    third = play.world.add("worker")
    third.wanted = False
    left = 0
    for _ in range(max(6, 2 * play.size.kills)):
        for worker in processes.of("worker"):
            ready = [one for one in processes.of("worker") if one.ready]
            if not worker.alive:
                worker.start()
            elif worker in ready and len(ready) > 1:
                await _leave(play, worker)
                left += 1
        await asyncio.sleep(3)
    for worker in processes.of("worker"):
        if not worker.alive:
            worker.start()
    assert left, "no worker left: none was ever seen ready beside another"


async def _leave(play: Play, worker: Process) -> None:
    """Stop a worker, with SIGTERM in half of the cases and SIGKILL otherwise."""
    if play.dice.random() < 0.5:
        play.world.ledger.fault("SIGTERM", "worker")
        await play.world.processes.end(worker)
    else:
        worker.wanted = False
        play.kill(worker)


async def _until_quiet(play: Play) -> None:
    """Wait until no more emails are sent, when the backlog has its full length."""
    out, since = -1, time.monotonic()
    while time.monotonic() - since < 3:
        if len(play.world.ledger.mails) != out:
            out, since = len(play.world.ledger.mails), time.monotonic()
        await asyncio.sleep(0.2)


ZOMBIE = 13.0
"""Seconds of a freeze: longer than a session, so that another worker takes over, and shorter than the transaction
timeout, so that the transaction of the frozen worker is still open."""
HOLD = 4.0
"""Seconds of a hold: much longer than the commit interval of the worker and the append timeout of the gateway."""


def _patience() -> Mapping[str, Mapping[str, str]]:
    """Return append timeouts with which the gateway answers during a hold and the worker does not give up."""
    return {"gateway": {"MAILFOLD_APPEND_TIMEOUT": "1.5"}, "worker": {"MAILFOLD_APPEND_TIMEOUT": "30"}}


@scenario(
    "the log confirms nothing to the worker for a while, then kill -9 of the worker",
    held=("worker",),
    role_env=_patience,
)
async def held_worker(play: Play) -> None:
    await _held(play, "worker", b"")


@scenario(
    "the log confirms nothing to the gateway for a while, then kill -9 of the gateway",
    held=("gateway",),
    role_env=_patience,
)
async def held_gateway(play: Play) -> None:
    await _held(play, "gateway", b"provider-webhooks", b"send-requests")


async def _held(play: Play, role: str, *abouts: bytes) -> None:
    """Hold back the records of a role and kill it: whatever it acknowledged during the hold was acknowledged too early.

    The topics take turns, because otherwise only the most frequent records would ever be held.
    """
    proxy, rounds = play.servers.proxy, max(3, play.size.kills // 2)

    async def faults() -> None:
        for nth in range(rounds):
            await play.at_work()
            proxy.hold(about=abouts[nth % len(abouts)])
            await proxy.caught()
            await asyncio.sleep(HOLD)
            for process in play.world.processes.of(role):
                play.kill(process)
            proxy.forget()
            proxy.let_go()

    await play.while_posting(rounds * 8.0, faults())
    play.notes.append(f"{proxy.held} requests held")


@scenario("the log confirms nothing to the worker for longer than it waits; nobody is killed", held=("worker",))
async def silent_worker(play: Play) -> None:
    await _silent(play, plain_only=False)


def _impatient() -> Mapping[str, Mapping[str, str]]:
    """Return an append timeout with which the worker gives up several times during one hold.

    Records that it passed to its producer first are only late. Later ones wait in the worker's memory and are lost with
    the attempt.
    """
    return {"worker": {"MAILFOLD_APPEND_TIMEOUT": "1.5"}}


@scenario(
    "the log confirms no event to the worker for much longer than it waits, but the fold goes on",
    held=("worker",),
    role_env=_impatient,
)
async def silent_normalizer(play: Play) -> None:
    await _silent(play, plain_only=True)


async def _silent(play: Play, *, plain_only: bool) -> None:
    proxy = play.servers.proxy

    async def faults() -> None:
        for _ in range(2):
            await play.at_work()
            proxy.hold(plain_only=plain_only)
            await proxy.caught()
            await asyncio.sleep(7)
            proxy.let_go()

    await play.while_posting(24, faults())


@scenario(
    "a worker's write is on its way while it is frozen and succeeded; then it arrives",
    counts={"worker": 2},
    held=("worker-1",),
)
async def zombie_write(play: Play) -> None:
    """Let the records of a frozen worker reach the broker after those of its successor."""
    first, proxy = play.world.processes.of("worker")[0], play.servers.proxy

    async def faults() -> None:
        for _ in range(2):
            await play.at_work()
            proxy.hold()
            await proxy.caught()
            await play.freeze(ZOMBIE, first)
            proxy.let_go()
            await asyncio.sleep(4)

    try:
        await play.while_posting(2 * (ZOMBIE + 8), faults())
    finally:
        proxy.let_go()


@scenario("everything is read again: the fold, the projections, at last an empty database; nobody is called again")
async def replay(play: Play) -> None:
    await play.traffic.post(2)
    assert not (left := await play.settle(240)), left
    calls = (len(play.world.ledger.mails), len(play.world.ledger.conversions))
    processes = play.world.processes
    for worker in processes.of("worker"):
        await processes.end(worker)
    await _rewind(play)
    for worker in processes.of("worker"):
        worker.start()
    assert not (left := await play.settle(120)), left
    await asyncio.to_thread(play.world.cli, "rebuild", patience=300)
    await _empty_database(play)
    assert not (left := await play.settle(120)), left
    after = (len(play.world.ledger.mails), len(play.world.ledger.conversions))
    play.notes.append(
        f"{calls[0]} mails and {calls[1]} conversions before the replays, {after[0]} and {after[1]} after"
    )
    if after != calls:
        play.world.ledger.wrong.append(f"a replay called somebody: {calls} (mails, conversions) became {after}")


async def _rewind(play: Play) -> None:
    """Reset the group of the fold to the beginning of every topic."""
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=play.world.bootstrap, group_id=f"{play.world.prefix}mailfold", enable_auto_commit=False
    )
    await consumer.start()
    try:
        for topic in (*oracle.FACT_TOPICS, "provider-webhooks"):
            partitions = await oracle.partitions_of(consumer, play.world.prefix + topic)
            consumer.assign(partitions)
            await consumer.commit(dict.fromkeys(partitions, 0))
    finally:
        await consumer.stop()


DERIVED = (
    *("projections.history", "projections.versions", "projections.timeline", "projections.evidence"),
    *("projections.requests", "projections.superseded_facts", "projections.next_offsets"),
    *("projections.statistics", "projections.statistics_groups", "projections.statistics_campaigns"),
    *("jobs.jobs", "jobs.lanes", "jobs.next_offsets", "intake.identities"),
)


async def _empty_database(play: Play) -> None:
    """Delete everything from the database that can be rebuilt from the log."""
    processes = play.world.processes
    away = [process for role in ("dispatch", "project", "emit") for process in processes.of(role)]
    for process in away:
        await processes.end(process)
    with psycopg.connect(play.world.url) as connection:
        connection.execute("truncate " + ", ".join(DERIVED))  # type: ignore[arg-type,unused-ignore]
    # Start dispatcher and emitter before conversions are found again: a rebuild must not depend on being faster.
    for process in away:
        if process.role != "project":
            process.start()
    await _listening(play)
    for process in processes.of("project"):
        process.start()


async def _listening(play: Play, patience: float = 30) -> None:
    """Wait until dispatcher and emitter listen for jobs."""
    query = (
        "select count(distinct query) from pg_stat_activity where datname = current_database() and query ~ '^listen'"
    )
    deadline = time.monotonic() + patience
    while (await asyncio.to_thread(oracle.table, play.world.url, query))[0][0] < 2:
        assert time.monotonic() < deadline, "dispatcher and emitter don't listen for jobs"
        await asyncio.sleep(0.1)
