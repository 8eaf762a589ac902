"""One scenario at work: a world, its traffic, and the hands that break things; every fault goes into the books."""

import asyncio
import random
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field

from tests.chaos import oracle
from tests.chaos.processes import Process
from tests.chaos.servers import Servers
from tests.chaos.traffic import Traffic
from tests.chaos.world import World


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    emails: int = 500
    kills: int = 5
    short_freeze: float = 15.0
    long_freeze: float = 90.0
    """Both longer than the session (10 s), so that a successor is at work."""
    patience: float = 0.0
    """Seconds until what has not arrived by then is called lost; 0: by the number of emails."""


WARM_UP = 4


class Skipped(Exception):
    """This machine can't show it; the message says why."""


@dataclass
class Play:
    """What a scenario works with."""

    world: World
    traffic: Traffic
    servers: Servers
    dice: random.Random
    size: Size
    notes: list[str] = field(default_factory=list)

    async def while_posting(self, span: float, faults: Awaitable[None]) -> None:
        """Traffic spread over ``span`` seconds, and faults beside it."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self.traffic.post(span))
            both.create_task(_as_coroutine(faults))

    async def warm_up(self, patience: float = 120) -> None:
        """A few emails to their end: what is broken before everybody works, breaks nothing."""
        whole, self.traffic.stories = self.traffic.stories, self.traffic.stories[:WARM_UP]
        await self.traffic.post(0)
        deadline = time.monotonic() + patience
        while self.traffic.left:
            assert time.monotonic() < deadline, f"nothing works, before anything was broken: {self.traffic.left[0]}"
            await asyncio.sleep(0.1)
        self.traffic.stories = whole[WARM_UP:]

    async def at_work(self, patience: float = 12) -> None:
        """Until mails go out and conversions arrive (again), and a moment more."""
        ledger, deadline = self.world.ledger, time.monotonic() + patience
        mails, told = len(ledger.mails), len(ledger.conversions)
        while time.monotonic() < deadline and (len(ledger.mails) == mails or len(ledger.conversions) == told):
            await asyncio.sleep(0.05)
        await asyncio.sleep(self.dice.uniform(0.2, 1.5))

    def kill(self, process: Process) -> None:
        self.world.ledger.fault("kill -9", process.role)
        process.kill()

    async def kill_some(self, count: int, gap: float, *roles: str) -> None:
        """So many kill -9, of random processes (of these roles)."""
        for _ in range(count):
            await asyncio.sleep(gap * self.dice.uniform(0.4, 1.6))
            if targets := [one for one in self.world.processes.targets() if not roles or one.role in roles]:
                self.kill(self.dice.choice(targets))

    async def freeze(self, seconds: float, *processes: Process) -> None:
        """SIGSTOP, wait, SIGCONT."""
        for process in processes:
            self.world.ledger.fault(f"SIGSTOP {seconds:.0f} s", process.role)
            process.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            for process in processes:
                process.thaw()

    async def settle(self, patience: float) -> list[str]:
        """See :func:`settle`."""
        return await settle(self.world, self.traffic, patience)


async def settle(world: World, traffic: Traffic, patience: float) -> list[str]:
    """Wait until all is told, done and read; what was not, when the time was up."""
    deadline = time.monotonic() + patience
    for left in (_untold, _open, _behind):
        while rows := await left(world, traffic):
            if time.monotonic() > deadline:
                return rows
            await asyncio.sleep(0.3)
    return []


async def _untold(_: World, traffic: Traffic) -> list[str]:
    left = traffic.left
    return [f"{len(left)} emails lack a word, such as {left[0]}"] if left else []


async def _open(world: World, _: Traffic) -> list[str]:
    rows = await asyncio.to_thread(oracle.open_jobs, world.url)
    return [f"{len(rows)} jobs are open, such as {rows[0]}"] if rows else []


async def _behind(world: World, _: Traffic) -> list[str]:
    lag: Mapping[str, int] = await oracle.lag(world.bootstrap, world.url, world.prefix)
    return [f"behind: {dict(lag)}"] if lag else []


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
