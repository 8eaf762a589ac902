"""Results as tables and JSON, and the goals that they are compared with."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from rich.table import Table

from bench.peers.contest import Result

TELLING: Final = 100_000
"""Events below which a run only shows that everything works, because its figures mean nothing."""


class Goal(NamedTuple):
    """A goal, its required value and the measured one."""

    what: str
    wanted: float
    found: float

    @property
    def met(self) -> bool:
        """Return whether the measured value reaches the required one."""
        return self.found >= self.wanted


def medians(results: Sequence[Result]) -> list[Result]:
    """Return the median round of each entrant (of two the slower), with the peak, trouble and spread of all rounds."""
    rounds: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        rounds.setdefault((result.entrant.engine.name, result.entrant.processes), []).append(result)
    return [_median(of_one) for of_one in rounds.values()]


def _median(runs: list[Result]) -> Result:
    if len(runs) == 1:
        return runs[0]
    ordered = sorted(runs, key=lambda run: run.pace.per_second)
    return dataclasses.replace(
        ordered[(len(ordered) - 1) // 2],
        peak_mb=max(run.peak_mb for run in runs),
        recovery_s=next((run.recovery_s for run in runs if run.recovery_s is not None), None),
        trouble=next((run.trouble for run in runs if run.trouble), ""),
        spread=(ordered[0].pace.per_second, ordered[-1].pace.per_second),
    )


def ratio(result: Result, results: Sequence[Result]) -> float | None:
    """Return how many times as fast as this result ours is, with the same number of processes; None without ours."""
    ours = _find(results, "ours", result.entrant.processes)
    return None if ours is None else ours.pace.per_second / result.pace.per_second


def goals(results: Sequence[Result]) -> Iterator[Goal]:
    """Yield the goals that can be computed from these results."""
    ours, two = _find(results, "ours", 1), _find(results, "ours", 2)
    if ours is None:
        return
    yield Goal("events/s per core", 60_000, ours.pace.per_second)
    for name, wanted in (("quix", 1.5), ("streams", 1.2), ("textbook", 15.0)):
        if peer := _find(results, name, 1):
            yield Goal(f"× {peer.entrant.title}", wanted, ours.pace.per_second / peer.pace.per_second)
    if two is not None:
        yield Goal("two workers, × one", 1.7, two.pace.per_second / ours.pace.per_second)
    if ours.recovery_s:
        yield Goal("states/s recovered (a million in 20 s)", 50_000, ours.states / ours.recovery_s)


def figures(results: Sequence[Result]) -> Table:
    """Return the figures of all results as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Engine", no_wrap=True)
    for column in ("events/s", "CPU µs", "peak MB", "recovery s", "ours is", "states"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        times = ratio(result, results)
        table.add_row(
            result.entrant.title,
            f"{result.pace.per_second:,.0f}" + _between(result),
            f"{result.pace.cpu_micros:.1f}",
            f"{result.peak_mb:.0f}",
            "–" if result.recovery_s is None else f"{result.recovery_s:.1f}",
            "–" if times is None else f"{times:.2f} ×",
            "[bold red]DIFFERENT[/]" if result.trouble else f"{result.states:,} equal",
        )
    return table


def _between(result: Result) -> str:
    return "" if result.spread is None else f" [dim]({result.spread[0]:,.0f}–{result.spread[1]:,.0f})[/]"


def kept(results: Sequence[Result]) -> Table:
    """Return the goals and whether they are met as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, side in (("Goal", "left"), ("at least", "right"), ("measured", "right"), ("", "left")):
        table.add_column(column, justify="right" if side == "right" else "left")
    for goal in goals(results):
        verdict = "[green]met[/]" if goal.met else "[red]missed[/]"
        table.add_row(goal.what, f"{goal.wanted:,g}", f"{goal.found:,.4g}", verdict)
    return table


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures and goals as they are written to the JSON file."""
    return {
        "engines": [_row(result, results) for result in results],
        "goals": [
            {"goal": goal.what, "wanted": goal.wanted, "measured": round(goal.found, 3), "met": goal.met}
            for goal in goals(results)
        ],
    }


def _row(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    times = ratio(result, results)
    return {
        "engine": result.entrant.engine.name,
        "processes": result.entrant.processes,
        "events_per_second": round(result.pace.per_second, 1),
        "between": None if result.spread is None else [round(pace, 1) for pace in result.spread],
        "cpu_micros_per_event": round(result.pace.cpu_micros, 3),
        "peak_rss_mb": round(result.peak_mb, 1),
        "recovery_seconds": None if result.recovery_s is None else round(result.recovery_s, 2),
        "ours_is_times": None if times is None else round(times, 3),
        "states": result.states,
        "different": result.trouble or None,
    }


def _find(results: Sequence[Result], name: str, processes: int) -> Result | None:
    for result in results:
        if (result.entrant.engine.name, result.entrant.processes) == (name, processes):
            return result
    return None
