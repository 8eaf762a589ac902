"""Scenarios with Kafka and Postgres killed, frozen, disconnected, locked or out of disk space."""

import asyncio
import contextlib
import signal
from pathlib import Path

import psycopg

from tests.chaos.play import Play
from tests.chaos.scenarios import PAIRS, Run, scenario

ROUNDS = 2


async def _down(play: Play, which: str, kind: str, seconds: float) -> None:
    """Make a server unavailable for ``seconds``."""
    play.world.ledger.fault(kind, which)
    if kind == "frozen":
        play.servers.freeze(which)
        await asyncio.sleep(seconds)
        play.servers.thaw(which)
        return
    if kind == "restarted":
        await play.servers.stop_cleanly(which)
    else:
        await asyncio.to_thread(
            play.servers.kill, which, signal.SIGQUIT if kind == "stopped at once" else signal.SIGKILL
        )
    await asyncio.sleep(seconds)
    await play.servers.ensure()


def _server_scenario(which: str, kind: str, seconds: tuple[float, ...]) -> Run:
    async def run(play: Play) -> None:
        async def faults() -> None:
            for pause in seconds:
                await asyncio.sleep(play.dice.uniform(2, 4))
                await _down(play, which, kind, pause)

        await play.while_posting(sum(seconds) + 6 * len(seconds), faults())

    run.__name__ = f"{which}_{kind.replace(' ', '_')}"
    return run


scenario("the broker dies by kill -9 and comes back")(_server_scenario("kafka", "killed", (1, 4)))
scenario("the broker is frozen, for 8 s and for 20 s")(_server_scenario("kafka", "frozen", (8, 20)))
scenario("the broker is stopped cleanly and started again")(_server_scenario("kafka", "restarted", (0, 2)))
scenario("Postgres stops at once (SIGQUIT) and comes back")(_server_scenario("postgres", "stopped at once", (0.5, 4)))
scenario("Postgres is stopped for 45 s, longer than a pool tries to reconnect, and started again")(
    _server_scenario("postgres", "restarted", (45,))
)
scenario("Postgres and all its backends are frozen, for 8 s and for 20 s", counts=PAIRS)(
    _server_scenario("postgres", "frozen", (8, 20))
)


@scenario("every connection to Postgres is cut, again and again (pg_terminate_backend)", counts=PAIRS)
async def postgres_cut(play: Play) -> None:
    cut = 0

    async def faults() -> None:
        nonlocal cut
        for _ in range(max(5, play.size.kills)):
            await asyncio.sleep(play.dice.uniform(0.3, 2))
            play.world.ledger.fault("connections cut", "postgres")
            cut += await asyncio.to_thread(play.servers.cut)

    await play.while_posting(max(5, play.size.kills) * 1.2, faults())
    play.notes.append(f"{cut} connections cut")


@scenario("a table is locked in the middle of a transaction, and who waits for it is killed")
async def postgres_locked(play: Play) -> None:
    """Kill roles between two writes that belong together; a lock makes that short moment longer."""

    # The dispatcher is killed more often, because half of its writes are acks, which test less than requests do.
    caught = [("jobs.jobs", "dispatch")] * 2 + [("jobs.jobs", "project"), ("projections.history", "project")]
    rounds = caught * max(2, play.size.kills // 4)

    async def faults() -> None:
        for table, role in rounds:
            await play.at_work()
            await _kill_who_waits(play, table, role)

    await play.while_posting(len(rounds) * 7.0, faults())


async def _kill_who_waits(play: Play, table: str, role: str) -> None:
    async with await psycopg.AsyncConnection.connect(play.world.url) as locking:
        # The lock blocks writers but not readers, and ends with this transaction.
        await locking.execute(f"lock table {table} in share row exclusive mode")  # type: ignore[arg-type,unused-ignore]
        # Long enough for requests or changes to arrive that the role wants to write.
        await asyncio.sleep(3)
        for process in play.world.processes.of(role):
            play.kill(process)
        # A statement that the role had sent continues after the lock, but nothing commits it.
        await asyncio.sleep(0.3)
        await locking.rollback()


@scenario("the disk under Kafka is full: 503, and what is taken stays; then it has room", own_disk="kafka")
async def disk_full_kafka(play: Play) -> None:
    await _disk_full(play, "kafka")


@scenario(
    "the disk under Postgres is full: 503, and what is taken stays; then there is room again", own_disk="postgres"
)
async def disk_full_postgres(play: Play) -> None:
    await _disk_full(play, "postgres")


async def _disk_full(play: Play, which: str) -> None:
    stories, play.traffic.stories = play.traffic.stories, play.traffic.stories[::2]
    await play.traffic.post(2)
    await asyncio.sleep(2)
    ballast = play.servers.folder / which / "ballast"
    await asyncio.to_thread(fill, ballast)
    play.world.ledger.fault("disk full", which)
    play.traffic.stories = stories[1::2]
    before = dict(play.world.ledger.answers)
    posting = asyncio.create_task(play.traffic.post(8, padding=40_000))
    await asyncio.sleep(10)
    during = {name: count - before.get(name, 0) for name, count in play.world.ledger.answers.items()}
    batches = {name.split()[-1]: n for name, n in during.items() if n and name.startswith("/channels")}
    play.notes.append(f"answers to batches while the disk was full: {batches}")
    # A broker that tidies up, as its log cleaner does, has room for one more batch: then 200 is right, and the judge
    # looks for its emails as for all others.
    if not batches.get("503", 0):
        play.world.ledger.wrong.append(f"a full disk and no 503: {batches}")
    ballast.unlink()
    # Restart a server that ended because of the full disk, as its supervisor would.
    await asyncio.sleep(1)
    await _again(play, which)
    await posting
    play.traffic.stories = stories


async def _again(play: Play, which: str) -> None:
    """Start the server again; Kafka may take a while to shut down after it lost its only log folder."""
    with contextlib.suppress(AssertionError):
        await play.servers.ensure()
    await asyncio.sleep(3)
    await play.servers.ensure()


def fill(ballast: Path) -> None:
    """Fill the disk until not even one byte can be written."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1_000_000, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
