"""`python -m bench [--quick] [--json FILE] [--against REF [--rounds N]] [stage…]`."""

import argparse
import asyncio
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import (
    accept,
    against,
    dialects,
    dispatch,
    emit,
    figures,
    fold,
    memory,
    pixel,
    project,
    rollups,
    webhooks,
    whole,
)
from bench.figures import Cost, Delay, Memory, Rate
from bench.house import QUICK, Size, World, server_settings, sink, world
from pipeline.devstack.supervisor import Stack
from pipeline.settings import Settings

STAGES = (
    "accept",
    "dialects",
    "pixel",
    "webhooks",
    "dispatch",
    "fold",
    "project",
    "emit",
    "rollups",
    "whole",
    "memory",
)


@dataclass
class Report:
    """The figures measured so far."""

    rates: list[Rate] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    memory: Memory | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the figures as they are written to the JSON file."""
        return {
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
            "rates": [rate.as_json() for rate in self.rates],
            "latencies": [delay.as_json() for delay in self.delays],
            "costs": [cost.as_json() for cost in self.costs],
            "idle_memory": self.memory.as_json() if self.memory is not None else None,
        }

    def show(self, console: Console) -> None:
        """Print the figures as tables."""
        if self.rates:
            console.print(figures.rates(self.rates), "")
        if self.delays:
            console.print(figures.delays(self.delays), "")
        if self.costs:
            console.print(figures.costs(self.costs), "")
        if self.memory is not None:
            console.print(figures.memory(self.memory), "")
        console.print(f"[dim]{os.cpu_count()} cores, shared by servers, roles and the load's makers.[/]")


async def measure(size: Size, stages: Collection[str], folder: Path, console: Console) -> Report:
    """Measure one stage after the other, each with its own topics and database on the same servers."""
    report = Report()
    servers = server_settings(folder)
    async with Stack(servers, roles=(), tell=lambda line: console.print(f"[dim]{line}[/]")) as stack:
        for names, stage in _IN_ORDER:
            if names & set(stages):
                await stage(stack.settings, size, report)
    if "memory" in stages:
        report.memory = await memory.run(folder / "up")
    return report


Stage = Callable[[Settings, Size, Report], Awaitable[None]]


async def _accept(servers: Settings, size: Size, report: Report) -> None:
    async with world(servers, "accept", size) as stage_world:
        report.rates.append(await accept.run(stage_world))


def _single_rate_stage(name: str, run: Callable[[World], Awaitable[tuple[Rate, list[Cost]]]]) -> Stage:
    """Return a stage that measures one rate and its costs, with its own topics and database."""

    async def stage(servers: Settings, size: Size, report: Report) -> None:
        async with world(servers, name, size) as stage_world:
            rate, costs = await run(stage_world)
            report.rates.append(rate)
            report.costs += costs

    return stage


async def _dialects(servers: Settings, size: Size, report: Report) -> None:
    async with world(servers, "dialects", size) as stage_world:
        rates, waits = await dialects.run(stage_world)
        report.rates += rates
        report.delays.append(waits)


async def _pixel(servers: Settings, size: Size, report: Report) -> None:
    async with world(servers, "pixel", size) as stage_world:
        rate, delay = await pixel.run(stage_world)
        report.rates.append(rate)
        report.delays.append(delay)


async def _webhooks(servers: Settings, size: Size, report: Report) -> None:
    async with world(servers, "webhooks", size) as stage_world:
        report.rates += await webhooks.run(stage_world)


async def _project_and_emit(servers: Settings, size: Size, report: Report) -> None:
    """Measure the projector and then the emitter, which sends the conversions that the projector stored as jobs."""
    counter = emit.Counter()
    async with sink(counter) as origin, world(servers, "project", size) as stage_world:
        rates, costs = await project.run(stage_world)
        rate, emit_costs = await emit.run(stage_world, counter, origin)
        report.rates += [*rates, rate]
        report.costs += costs + emit_costs


async def _whole(servers: Settings, size: Size, report: Report) -> None:
    arrivals = whole.Arrivals()
    async with sink(arrivals) as origin, world(servers, "whole", size, origin) as stage_world:
        rate, delays, costs = await whole.run(stage_world, arrivals)
        report.delays += delays
        report.costs += costs
        report.rates.append(_with_slowest_stage(rate, report.rates))


_IN_ORDER: tuple[tuple[set[str], Stage], ...] = (
    ({"accept"}, _accept),
    ({"dialects"}, _dialects),
    ({"pixel"}, _pixel),
    ({"webhooks"}, _webhooks),
    ({"dispatch"}, _single_rate_stage("dispatch", dispatch.run)),
    ({"fold"}, _single_rate_stage("fold", fold.run)),
    ({"project", "emit"}, _project_and_emit),
    ({"rollups"}, _single_rate_stage("rollups", rollups.run)),
    ({"whole"}, _whole),
)


def _with_slowest_stage(rate: Rate, rates: list[Rate]) -> Rate:
    """Return the rate of the whole path with its slowest stage, measured alone, as the peer."""
    if not rates:
        return rate
    slowest = min(rates, key=lambda each: each.value)
    return Rate(rate.stage, rate.unit, rate.value, f"its narrowest stage alone: {slowest.stage}", slowest.value)


def main() -> int:
    """Measure the chosen stages, print the figures and write them to a file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"one or more of {', '.join(STAGES)}; all without")
    parser.add_argument("--quick", action="store_true", help="a smoke run: shows that it works, measures nothing")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--against", metavar="REF", help="run another commit's bench in turn with this one's")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each commit with --against (default: 2)")
    options = parser.parse_args()
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    console = Console(highlight=False)
    if options.against:
        return _run_against(options, console)
    # A new topic has no leader for a moment; aiokafka retries, but logs an error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="mailfold-bench-"))
    try:
        size = QUICK if options.quick else Size()
        report = asyncio.run(measure(size, options.stages or STAGES, folder, console))
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.show(console)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 0


def _run_against(options: argparse.Namespace, console: Console) -> int:
    """Measure this checkout beside another commit, print the ratios and write them to a file; return the exit code."""
    arguments = [*options.stages, *(["--quick"] if options.quick else [])]
    try:
        comparisons = against.compare(options.against, arguments, options.rounds, console)
    except KeyboardInterrupt:
        return 130
    except subprocess.CalledProcessError as error:
        output = error.output.decode(errors="replace")[-2_000:] if error.output else str(error.stderr or b"", "utf-8")
        console.print(f"bench: {error.cmd[:3]} ended with {error.returncode}:\n{output}", markup=False)
        return 1
    console.print(against.comparison_table(options.against, comparisons))
    if options.json:
        report = {"against": options.against, "figures": [each.as_json() for each in comparisons]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
