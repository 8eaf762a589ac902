"""`python -m tests.chaos [scenario …]`: cause failures on purpose, and check that all guarantees still hold."""

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from tests.chaos import source
from tests.chaos.play import Size
from tests.chaos.runner import Result, Told, Trial, run_all
from tests.chaos.scenarios import SCENARIOS


def main() -> int:
    # Ended from outside, we must still end what we have started.
    signal.signal(signal.SIGTERM, _interrupt)
    options = _options()
    console = Console()
    if options.list:
        console.print(_catalogue())
        return 0
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        console.print(f"no scenario {', '.join(unknown)}; --list shows them")
        return 2
    seeds = [options.seed + nth for nth in range(options.seeds)]
    folder = Path(tempfile.mkdtemp(prefix="mailfold-chaos-"))
    folder.chmod(0o755)  # Postgres may run as another user
    console.print(f"seed {options.seed}: replay with --seed {options.seed}; logs under {folder} where something breaks")
    tree = source.copy(folder / "tree", options.ref)
    chosen = [SCENARIOS[name] for name in options.scenarios or SCENARIOS]
    size = Size(options.emails, options.kills, options.short_freeze, options.long_freeze)
    try:
        results = asyncio.run(run_all(chosen, seeds, Trial(folder, tree, size), Told()))
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        console.print("interrupted; everything that was started has ended")
        return 130
    console.print(_summary(results))
    return _end(results, folder, console)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="names; none is all")
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(100_000), help="the dice; replays a run's choices"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--emails", type=int, default=500, help="per scenario (default 500)")
    parser.add_argument("--kills", type=int, default=8, help="per scenario (default 8)")
    parser.add_argument("--short-freeze", type=float, default=15.0, help="seconds; the session is 10")
    parser.add_argument("--long-freeze", type=float, default=90.0, help="seconds")
    parser.add_argument("--ref", default="", help="the code of this commit instead of the working tree's")
    return parser.parse_args()


def _catalogue() -> Table:
    table = Table("scenario", "what it breaks", title="Chaos")
    for scenario in SCENARIOS.values():
        table.add_row(scenario.name, scenario.what)
    return table


def _summary(results: list[Result]) -> Table:
    table = Table("scenario", "seed", "emails", "faults", "exits", "mails twice", "told twice", "s", "", title="Chaos")
    for one in results:
        verdict = "[yellow]skipped[/]" if one.skipped else "[green]held[/]" if one.held else "[red]BROKEN[/]"
        twice = (str(one.verdict.mails_twice), str(one.verdict.conversions_twice))
        figures = (str(one.seed), str(one.emails), str(one.faults), str(one.exits), *twice, f"{one.seconds:.0f}")
        table.add_row(one.name, *figures, verdict)
    return table


def _end(results: list[Result], folder: Path, console: Console) -> int:
    for one in results:
        for note in one.notes:
            console.print(f"{one.name}: {note}", markup=False)
    broken = [one for one in results if not one.held]
    if broken:
        again = f"python -m tests.chaos {' '.join(dict.fromkeys(one.name for one in broken))} --seed {broken[0].seed}"
        console.print(f"{len(broken)} of {len(results)} BROKEN; logs: {folder}; again: {again}", markup=False)
        shutil.rmtree(folder / "servers", ignore_errors=True)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
