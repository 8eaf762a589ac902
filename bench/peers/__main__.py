"""`python -m bench.peers [--events N] [--json FILE] [engine[:processes]…]`."""

import argparse
import asyncio
import json
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from bench.peers import load, report, states
from bench.peers.contest import Contest, Entrant, Result
from bench.peers.engines import ENGINES, Arena, Tell
from bench.peers.measure import Stalled
from bench.peers.processes import Cores, Ended
from bench.peers.traffic import Shape, traffic
from pipeline.devstack.servers import kafka
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.process import StartupFailed
from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings

EVERYONE = ("textbook", "quix", "streams", "streams-eos", "ours", "quix:2", "streams:2", "ours:2")
WARM_UP = 200_000
WIDE = 120
"""Characters per line if the output is not a terminal."""


@dataclass
class Outcome:
    """The results so far, and the engines that failed."""

    results: list[Result] = field(default_factory=list)
    failed: list[Entrant] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Return whether every engine reached the end of the topic with the correct states."""
        return not self.failed and not any(result.trouble for result in self.results)


async def compete(asked: argparse.Namespace, folder: Path, console: Console, outcome: Outcome) -> None:
    """Measure one engine after the other on a broker started for it; a failed engine does not stop the others."""

    def tell(line: str) -> None:
        console.print(f"[dim]{line}[/]")

    entrants: list[Entrant] = asked.entrants
    cores = Cores(max(entrant.processes for entrant in entrants))
    cores.stay()
    port = find_free_port()
    broker = kafka.start(folder / "kafka", port, tell=tell)
    try:
        arena = await _arena(asked, folder, f"127.0.0.1:{port}", tell)
        tell("the plain fold of the topic, against which all states are held")
        wanted = await states.expected(arena.bootstrap, arena.topic)
        contest = Contest(arena, cores, wanted, asked.within, tell)
        for number in range(asked.rounds):
            for entrant in entrants:
                await _run(contest, replace(entrant, round=number), console, outcome)
    finally:
        kafka.stop(broker)


async def _run(contest: Contest, entrant: Entrant, console: Console, outcome: Outcome) -> None:
    try:
        outcome.results.append(await contest.run(entrant))
    except (Ended, Stalled) as error:
        outcome.failed.append(entrant)
        console.print(str(error), style="bold red", markup=False, soft_wrap=True)
    else:
        _show(outcome.results[-1], console)


async def _arena(asked: argparse.Namespace, folder: Path, bootstrap: str, tell: Tell) -> Arena:
    settings = Settings(
        kafka_bootstrap=bootstrap,
        database_url=SecretStr(""),
        secret=SecretStr("signs nothing: the bench's own, 32 characters"),
        data_dir=folder,
        topic_prefix="peers-",
        partitions=asked.partitions,
    )
    await topic_admin.create(settings)
    arena = Arena(settings, "peers-warm-up", folder, asked.commit)
    shape = Shape(asked.events, asked.emails, asked.seed)
    tell(f"writing {shape.events:,} events of {shape.emails:,} emails, seed {shape.seed}")
    await load.fill(bootstrap, arena.topic, arena.partitions, traffic(shape))
    if any(entrant.engine.warms_up for entrant in asked.entrants):
        events = min(WARM_UP, asked.events)
        warm = Shape(events, max(1, events // 4), asked.seed + 1)
        await load.create(bootstrap, arena.warm_topic, arena.partitions)
        await load.fill(bootstrap, arena.warm_topic, arena.partitions, traffic(warm))
    return arena


def _show(result: Result, console: Console) -> None:
    console.print(f"{result.entrant.title}: {result.pace.per_second:,.0f} events/s")
    if result.trouble:
        console.print(result.trouble, style="bold red", markup=False, soft_wrap=True)


def _entrant(text: str) -> Entrant:
    name, colon, processes = text.partition(":")
    if name not in ENGINES:
        raise argparse.ArgumentTypeError(f"no such engine: {name}; there are {', '.join(ENGINES)}")
    if colon and not (processes.isdigit() and int(processes)):
        raise argparse.ArgumentTypeError(f"{text}: a number of processes follows the colon")
    return Entrant(ENGINES[name], int(processes or 1))


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; exit with a message if it is invalid."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("entrants", nargs="*", metavar="engine", help=f"without any: {' '.join(EVERYONE)}")
    parser.add_argument("--events", type=int, default=1_000_000, help="records on the topic (1,000,000)")
    parser.add_argument("--emails", type=int, help="emails that they speak of (a quarter of the events)")
    parser.add_argument("--partitions", type=int, default=4, help="of each topic (4)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same topic (1)")
    parser.add_argument("--commit", type=float, default=0.5, help="seconds between the peers' commits (0.5, as ours)")
    parser.add_argument("--rounds", type=int, default=1, help="of all engines in turn; medians are told (1)")
    parser.add_argument("--within", type=float, default=1200.0, help="seconds that one run may take (1200)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    asked = parser.parse_args(arguments)
    try:
        asked.entrants = [_entrant(text) for text in asked.entrants or EVERYONE]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if asked.rounds < 1:
        parser.error("--rounds: at least one")
    asked.emails = asked.emails or max(1, asked.events // 4)
    return asked


def _machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def main() -> int:
    """Measure, print and write the figures; return 1 if an engine failed or has wrong states."""
    asked = options()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    logging.getLogger("aiokafka").setLevel(
        logging.CRITICAL
    )  # topics are created and deleted, which aiokafka logs as errors
    # SIGTERM would end Python at once and leave the broker's folder behind, and SIGINT is ignored in a background job
    # of a shell. As KeyboardInterrupt, asyncio turns both into a cancelled task.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    folder = Path(tempfile.mkdtemp(prefix="mailfold-peers-"))
    outcome = Outcome()
    try:
        asyncio.run(compete(asked, folder, console, outcome))
    except KeyboardInterrupt:
        return 130
    except StartupFailed as error:
        console.print(str(error), style="bold red", markup=False, soft_wrap=True)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _tell(asked, outcome, console)
    return 0 if outcome.good else 1


def _tell(asked: argparse.Namespace, outcome: Outcome, console: Console) -> None:
    results = report.medians(outcome.results)
    console.print("", report.figures(results), "")
    if outcome.failed:
        names = ", ".join(entrant.title for entrant in outcome.failed)
        console.print(f"did not come to the end: {names}", style="bold red")
    if asked.events >= report.TELLING:
        console.print(report.kept(results), "")
    else:
        console.print(f"[dim]{asked.events:,} events measure nothing; they show that everything works.[/]")
    if asked.json:
        told = {"machine": _machine(), "events": asked.events, "emails": asked.emails, "seed": asked.seed}
        told["rounds"] = asked.rounds
        failed = {"failed": [entrant.run for entrant in outcome.failed]}
        asked.json.write_text(json.dumps({**told, **report.as_json(results), **failed}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
