"""`python -m bench.peers [--events N] [--json FILE] [engine[:processes]…]`."""

import argparse
import asyncio
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
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
from pipeline import cluster
from pipeline.embedded import kafka
from pipeline.embedded.child import NotStarted
from pipeline.embedded.home import free_port
from pipeline.settings import Settings

EVERYONE = ("textbook", "quix", "streams", "streams-eos", "ours", "quix:2", "streams:2", "ours:2")
WARM_UP = 200_000


async def compete(asked: argparse.Namespace, folder: Path, console: Console) -> list[Result]:
    """A broker of our own, a topic, one engine after the other."""

    def tell(line: str) -> None:
        console.print(f"[dim]{line}[/]")

    entrants: list[Entrant] = asked.entrants
    cores = Cores(max(entrant.processes for entrant in entrants))
    cores.stay()
    port = free_port()
    broker = kafka.start(folder / "kafka", port, tell=tell)
    try:
        arena = await _arena(asked, folder, f"127.0.0.1:{port}", tell)
        tell("the plain fold of the topic, against which all states are held")
        wanted = await states.expected(arena.bootstrap, arena.topic)
        contest = Contest(arena, cores, wanted, asked.within, tell)
        results = []
        for entrant in entrants:
            results.append(await contest.run(entrant))
            _show(results[-1], console)
        return results
    finally:
        kafka.stop(broker)


async def _arena(asked: argparse.Namespace, folder: Path, bootstrap: str, tell: Tell) -> Arena:
    settings = Settings(
        kafka_bootstrap=bootstrap,
        database_url=SecretStr(""),
        secret=SecretStr("signs nothing: the bench's own, 32 characters"),
        data_dir=folder,
        topic_prefix="peers-",
        partitions=asked.partitions,
    )
    await cluster.create(settings)
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
    """What was asked for on the command line; exits, with a word, where that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("entrants", nargs="*", metavar="engine", help=f"without any: {' '.join(EVERYONE)}")
    parser.add_argument("--events", type=int, default=1_000_000, help="records on the topic (1,000,000)")
    parser.add_argument("--emails", type=int, help="emails that they speak of (a quarter of the events)")
    parser.add_argument("--partitions", type=int, default=4, help="of each topic (4)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same topic (1)")
    parser.add_argument("--commit", type=float, default=0.5, help="seconds between the peers' commits (0.5, as ours)")
    parser.add_argument("--within", type=float, default=1200.0, help="seconds that one run may take (1200)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    asked = parser.parse_args(arguments)
    try:
        asked.entrants = [_entrant(text) for text in asked.entrants or EVERYONE]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    asked.emails = asked.emails or max(1, asked.events // 4)
    return asked


def _machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def main() -> int:
    """Measure, print, write; 1 where an engine's states are wrong or it did not come to the end."""
    asked = options()
    console = Console(highlight=False)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # topics come and go here
    folder = Path(tempfile.mkdtemp(prefix="mailfold-peers-"))
    try:
        results = asyncio.run(compete(asked, folder, console))
    except KeyboardInterrupt:
        return 130
    except (Ended, NotStarted, Stalled) as error:
        console.print(str(error), style="bold red", markup=False, soft_wrap=True)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print("", report.figures(results), "")
    if asked.events >= report.TELLING:
        console.print(report.kept(results), "")
    else:
        console.print(f"[dim]{asked.events:,} events measure nothing; they show that everything works.[/]")
    if asked.json:
        told = {"machine": _machine(), "events": asked.events, "emails": asked.emails, "seed": asked.seed}
        asked.json.write_text(json.dumps({**told, **report.as_json(results)}, indent=2) + "\n")
    return 1 if any(result.trouble for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
