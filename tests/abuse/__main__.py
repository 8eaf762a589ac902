"""`python -m tests.abuse`: attack a running stack, and measure what an innocent tenant notices of it."""

import argparse
import asyncio
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from tests.abuse.attacks import ATTACKS
from tests.abuse.probe import quantile
from tests.abuse.run import GOAL, Plan, Report, run_all


def main() -> int:
    # Ended from outside, we must still end what we have started.
    signal.signal(signal.SIGTERM, _interrupt)
    options = _options()
    console = Console(highlight=False)
    if options.list:
        console.print(_catalogue())
        return 0
    if unknown := set(options.only) - set(ATTACKS):
        console.print(f"no attack {', '.join(sorted(unknown))}; --list shows them")
        return 2
    chosen = {name: attack for name, attack in ATTACKS.items() if not options.only or name in options.only}
    folder = Path(tempfile.mkdtemp(prefix="mailfold-abuse-"))
    folder.chmod(0o755)  # Postgres may run as another user

    def tell(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')}  {line}", markup=False)

    try:
        report = asyncio.run(run_all(chosen, Plan(options.seconds, options.rate, options.patience), folder, tell))
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(_table(report))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 0 if all(result.held for result in report.results) else 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("--list", action="store_true", help="show the attacks and end")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this attack; may be repeated")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each attack lasts (default 10)")
    parser.add_argument("--rate", type=float, default=4.0, help="innocent emails a second (default 4)")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds until an innocent's email is lost (60)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    return parser.parse_args()


def _catalogue() -> Table:
    table = Table("attack", "what it sends", "a second", title="Abuse")
    for name, attack in ATTACKS.items():
        table.add_row(name, attack.what, f"{attack.rate:g}")
    return table


def _table(report: Report) -> Table:
    columns = ("attack", "strokes", "email p99", "×", "webhook p99", "×", "lost", "")
    table = Table(*columns, title=f"Innocent emails and webhooks beside attacks; goal: p99 ≤ {GOAL:g} × undisturbed")
    idle = report.undisturbed
    table.add_row("undisturbed", "", _millis(idle.emails), "", _millis(idle.webhooks), "", str(idle.lost), "")
    for one in report.results:
        email = (_millis(one.figures.emails), _times(one.email_ratio))
        webhook = (_millis(one.figures.webhooks), _times(one.webhook_ratio))
        verdict = "[green]held[/]" if one.held else "[red]NOT HELD[/]"
        table.add_row(one.name, str(one.strokes), *email, *webhook, str(one.figures.lost), verdict)
    return table


def _millis(times: list[float]) -> str:
    return f"{1000 * quantile(times, 0.99):,.0f} ms" if times else "–"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if math.isfinite(ratio) else "–"


if __name__ == "__main__":
    sys.exit(main())
