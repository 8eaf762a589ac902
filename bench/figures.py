"""Measured figures and their tables. A rate alone says little, so each has the rate of a peer from the same run."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Rate:
    """A rate of a stage, and that of a peer that does only the part that cannot be left out."""

    stage: str
    unit: str
    value: float
    peer: str
    peer_value: float

    @property
    def ratio(self) -> float:
        """Return the rate as a share of the peer's; the rest is the cost of everything else that the stage does."""
        return self.value / self.peer_value if self.peer_value else 0.0

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "stage": self.stage,
            "unit": self.unit,
            "per_second": round(self.value, 1),
            "peer": self.peer,
            "peer_per_second": round(self.peer_value, 1),
            "ratio": round(self.ratio, 4),
        }


@dataclass(frozen=True)
class Delay:
    """Latencies in milliseconds, and those of a peer."""

    what: str
    millis: tuple[float, ...]
    goal_p50: float = 0.0
    goal_p99: float = 0.0
    peer: str = ""
    peer_millis: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "what": self.what,
            "samples": len(self.millis),
            "p50_ms": round(percentile(self.millis, 50), 1),
            "p99_ms": round(percentile(self.millis, 99), 1),
            "goal_p50_ms": self.goal_p50,
            "goal_p99_ms": self.goal_p99,
            "peer": self.peer,
            "peer_p50_ms": round(percentile(self.peer_millis, 50), 1),
            "peer_p99_ms": round(percentile(self.peer_millis, 99), 1),
        }


@dataclass(frozen=True)
class Cost:
    """What one unit of work costs, such as milliseconds of CPU time of one role for an email."""

    stage: str
    what: str
    unit: str
    value: float

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {"stage": self.stage, "what": self.what, "unit": self.unit, "value": round(self.value, 4)}


@dataclass(frozen=True)
class Memory:
    """Megabytes of memory per process of the idle stack."""

    rss: dict[str, float]
    pss: dict[str, float]
    goal: float = 1200.0

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        rounded = {name: round(value, 1) for name, value in self.rss.items()}
        total = {"rss_mb": round(sum(self.rss.values()), 1), "pss_mb": round(sum(self.pss.values()), 1)}
        return {**total, "goal_rss_mb": self.goal, "rss_mb_per_role": rounded}


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the ``percent``-th percentile of ``values``; 0 without values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def pace(progress: Callable[[], Awaitable[int]], total: int, within: float) -> float:
    """Return the progress per second from the first progress to the end, so that start-up is not measured.

    ``progress`` returns how many of ``total`` are done. Raises TimeoutError after ``within`` seconds.
    """
    began = time.perf_counter()
    first: tuple[float, int] | None = None
    async with asyncio.timeout(within):
        while True:
            done, now = await progress(), time.perf_counter()
            if first is None and done > 0:
                first = (now, done)
            if done >= total:
                break
            await asyncio.sleep(0.01)
    assert first is not None
    if first[1] >= total:
        return total / (now - began)
    return (done - first[1]) / (now - first[0])


def rates(measured: Sequence[Rate]) -> Table:
    """Return rates as a table."""
    table = make_table("Stage", "per second", "Peer, same run", "per second", "ratio")
    for rate in measured:
        beside = (rate.peer, f"{rate.peer_value:,.0f}", f"{rate.ratio:.2f}") if rate.peer else ("–", "–", "–")
        table.add_row(rate.stage, f"{rate.value:,.0f} {rate.unit}", *beside)
    return table


def delays(measured: Sequence[Delay]) -> Table:
    """Return latencies as a table."""
    table = make_table("Latency", "samples", "p50 ms", "p99 ms", "goal", "Peer p50 / p99")
    for delay in measured:
        goal = f"≤ {delay.goal_p50:.0f} / {delay.goal_p99:.0f}" if delay.goal_p50 else "–"
        beside = f"{delay.peer}: {percentile(delay.peer_millis, 50):.1f} / {percentile(delay.peer_millis, 99):.1f}"
        p50, p99 = percentile(delay.millis, 50), percentile(delay.millis, 99)
        table.add_row(
            delay.what, str(len(delay.millis)), f"{p50:.0f}", f"{p99:.0f}", goal, beside if delay.peer else "–"
        )
    return table


def costs(measured: Sequence[Cost]) -> Table:
    """Return costs as a table."""
    table = make_table("Cost", "of one", "")
    for cost in measured:
        unit, _, of_one = cost.unit.partition("/")
        table.add_row(f"{cost.stage}: {cost.what}", of_one, f"{cost.value:,.{0 if cost.value >= 100 else 2}f} {unit}")
    return table


def memory(measured: Memory) -> Table:
    """Return memory per process as a table."""
    table = make_table("Idle memory", "RSS MB", "PSS MB")
    for name, value in measured.rss.items():
        table.add_row(name, f"{value:.0f}", f"{measured.pss.get(name, 0.0):.0f}")
    total = f"{sum(measured.rss.values()):.0f} (goal < {measured.goal:.0f})"
    table.add_row("together", total, f"{sum(measured.pss.values()):.0f}")
    return table


def make_table(*columns: str) -> Table:
    """Return an empty table; columns are right-aligned but for the first and those of peers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column.startswith("Peer") else "right")
    return table
