"""Each attack beside an innocent tenant, judged against the undisturbed beginning of the same run."""

import asyncio
import contextlib
import math
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.abuse.attacks import Attack
from tests.abuse.probe import Figures, Probe, quantile
from tests.abuse.stack import Running, running

GOAL: Final = 3.0
"""How many times the undisturbed p99 an innocent's may be."""
WARM_UP_S: Final = 5.0


@dataclass(frozen=True)
class Plan:
    """How long, how often, how patiently."""

    seconds: float = 10.0
    rate: float = 4.0
    """Innocent emails a second."""
    patience: float = 60.0
    """Seconds after an attack in which the innocents' last must arrive."""


@dataclass(frozen=True)
class Result:
    """One attack's."""

    name: str
    what: str
    strokes: int
    figures: Figures
    undisturbed: Figures

    @property
    def email_ratio(self) -> float:
        """The innocent emails' p99 as a multiple of the undisturbed one."""
        return _ratio(self.figures.emails, self.undisturbed.emails)

    @property
    def webhook_ratio(self) -> float:
        """The same of webhooks."""
        return _ratio(self.figures.webhooks, self.undisturbed.webhooks)

    @property
    def held(self) -> bool:
        """Whether the goal is met and nothing is lost."""
        return self.figures.lost == 0 and max(self.email_ratio, self.webhook_ratio) <= GOAL

    def as_json(self) -> dict[str, Any]:
        ratios = {"email_ratio": _finite(self.email_ratio), "webhook_ratio": _finite(self.webhook_ratio)}
        head = {"name": self.name, "what": self.what, "strokes": self.strokes, "held": self.held}
        return head | ratios | self.figures.as_json()


def _ratio(times: list[float], undisturbed: list[float]) -> float:
    return quantile(times, 0.99) / quantile(undisturbed, 0.99) if times and undisturbed else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Report:
    """What was found so far."""

    def __init__(self) -> None:
        self.undisturbed = Figures()
        self.results: list[Result] = []

    def as_json(self) -> dict[str, Any]:
        return {
            "goal": GOAL,
            "undisturbed": self.undisturbed.as_json(),
            "attacks": [result.as_json() for result in self.results],
        }


async def run_all(attacks: Mapping[str, Attack], plan: Plan, folder: Path, tell: Callable[[str], None]) -> Report:
    """One attack after the other; a stack that did not get over one is replaced."""
    report, left, number = Report(), list(attacks), 0
    while left:
        number += 1
        here = folder / f"stack-{number}"
        async with running(here, tell) as stack:
            await _settle(stack, plan)
            if not report.undisturbed.emails:
                report.undisturbed = await Probe(stack).run("undisturbed", 2 * plan.seconds, plan.rate, plan.patience)
            while left:
                name = left.pop(0)
                result = await _one(stack, name, attacks[name], plan, report.undisturbed)
                report.results.append(result)
                tell(_line(result))
                if not result.held:
                    break
        shutil.rmtree(here, ignore_errors=True)
    return report


async def _settle(stack: Running, plan: Plan) -> None:
    """A fresh stack's first emails pay for connections, rebalances and imports."""
    await Probe(stack).run("warm", 1.0, 1.0, 120.0)
    await Probe(stack).run("warmer", min(WARM_UP_S, plan.seconds), plan.rate, plan.patience)


async def _one(stack: Running, name: str, attack: Attack, plan: Plan, undisturbed: Figures) -> Result:
    prepared = await attack.prepare(stack)
    probe = Probe(stack, chunked=attack.chunked)
    async with _attacking(stack, attack, prepared, plan.seconds) as strokes:
        figures = await probe.run(name, plan.seconds, plan.rate, plan.patience)
    return Result(name, attack.what, len(strokes), figures, undisturbed)


@contextlib.asynccontextmanager
async def _attacking(stack: Running, attack: Attack, prepared: str, seconds: float) -> AsyncIterator[list[int]]:
    """Attack for so long; the numbers of the strokes made."""
    strokes: list[int] = []
    under_way: set[asyncio.Task[None]] = set()

    async def strike() -> None:
        began, nth = time.monotonic(), 0
        while (now := time.monotonic()) < began + seconds:
            if now >= began + nth / attack.rate:
                nth += 1
                if len(under_way) < attack.at_once:
                    task = asyncio.ensure_future(attack.once(stack, prepared, nth))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    strokes.append(nth)
            await asyncio.sleep(min(0.01, 1 / attack.rate))

    striking = asyncio.create_task(strike())
    try:
        yield strokes
    finally:
        for task in [striking, *under_way]:
            task.cancel()
        await asyncio.gather(striking, *under_way, return_exceptions=True)


def _line(result: Result) -> str:
    said = "held" if result.held else "NOT HELD"
    times = f"email × {result.email_ratio:.1f}, webhook × {result.webhook_ratio:.1f}, lost {result.figures.lost}"
    return f"{result.name}: {said}; {times}"
