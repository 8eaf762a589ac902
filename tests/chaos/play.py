"""The run of one scenario: its world, its traffic and the means to cause faults, all of which are recorded."""

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
    """The amounts of a run."""

    emails: int = 500
    kills: int = 5
    short_freeze: float = 15.0
    long_freeze: float = 90.0
    """Seconds; both are longer than a session (10 s), so that another process takes over."""
    patience: float = 0.0
    """Seconds after which anything that has not arrived counts as lost; 0: depends on the number of emails."""


WARM_UP = 4


class Skipped(Exception):
    """The scenario cannot run on this machine; the message says why."""


@dataclass
class Play:
    """The environment that a scenario works with."""

    world: World
    traffic: Traffic
    servers: Servers
    dice: random.Random
    size: Size
    notes: list[str] = field(default_factory=list)

    async def while_posting(self, span: float, faults: Awaitable[None]) -> None:
        """Post the traffic over ``span`` seconds and cause the faults at the same time."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self.traffic.post(span))
            both.create_task(_as_coroutine(faults))

    async def warm_up(self, patience: float = 120) -> None:
        """Process a few emails completely, because faults before all roles work would test nothing."""
        whole, self.traffic.stories = self.traffic.stories, self.traffic.stories[:WARM_UP]
        await self.traffic.post(0)
        deadline = time.monotonic() + patience
        while self.traffic.left:
            assert time.monotonic() < deadline, f"nothing works, before anything was broken: {self.traffic.left[0]}"
            await asyncio.sleep(0.1)
        self.traffic.stories = whole[WARM_UP:]

    async def at_work(self, patience: float = 12) -> None:
        """Wait until emails are sent and conversions arrive (again), and a moment longer."""
        ledger, deadline = self.world.ledger, time.monotonic() + patience
        mails, conversions = len(ledger.mails), len(ledger.conversions)
        while time.monotonic() < deadline and (len(ledger.mails) == mails or len(ledger.conversions) == conversions):
            await asyncio.sleep(0.05)
        await asyncio.sleep(self.dice.uniform(0.2, 1.5))

    def kill(self, process: Process) -> None:
        self.world.ledger.fault("kill -9", process.role)
        process.kill()

    async def kill_some(self, count: int, gap: float, *roles: str) -> None:
        """Send ``count`` SIGKILLs to random processes, of these roles if any are given."""
        for _ in range(count):
            await asyncio.sleep(gap * self.dice.uniform(0.4, 1.6))
            if targets := [one for one in self.world.processes.targets() if not roles or one.role in roles]:
                self.kill(self.dice.choice(targets))

    async def freeze(self, seconds: float, *processes: Process) -> None:
        """Stop processes for ``seconds`` with SIGSTOP and SIGCONT."""
        for process in processes:
            self.world.ledger.fault(f"SIGSTOP {seconds:.0f} s", process.role)
            process.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            for process in processes:
                process.thaw()

    async def settle(self, patience: float) -> list[str]:
        """Wait until everything is done; see :func:`settle`."""
        return await settle(self.world, self.traffic, patience)


async def settle(world: World, traffic: Traffic, patience: float) -> list[str]:
    """Wait until all conversions arrived and all jobs and topics are processed; return what is left after a timeout."""
    deadline = time.monotonic() + patience
    for left in (_untold, _open, _behind, _uncounted):
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


async def _uncounted(world: World, _: Traffic) -> list[str]:
    """Rows that an older version wrote, which the projector completes in the background."""
    rows = await asyncio.to_thread(oracle.uncounted_rows, world.url)
    return [f"{rows} rows of an older version are not counted yet"] if rows else []


async def _behind(world: World, _: Traffic) -> list[str]:
    lag: Mapping[str, int] = await oracle.lag(world.bootstrap, world.url, world.prefix)
    return [f"behind: {dict(lag)}"] if lag else []


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
