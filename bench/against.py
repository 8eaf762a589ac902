"""Measure this checkout beside another commit: both in turn in one run, so that noise of the machine meets both.

Run by `python -m bench --against REF`. The other commit runs its own bench from a git worktree, with this environment's
packages.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.figures import make_table

CPU_SECONDS: Final = "CPU of the whole run, servers and load included"
_ROOT: Final = Path(__file__).parents[1]

RunFigures = dict[str, float]
"""The figures of one run by their names with units."""


@dataclass(frozen=True)
class Comparison:
    """One figure of both commits, a value for each round."""

    figure: str
    theirs: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Return the median of the rounds' ratios, ours over theirs."""
        return statistics.median(our / their for our, their in zip(self.ours, self.theirs, strict=True))

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as it is written to the JSON file."""
        return {"figure": self.figure, "theirs": self.theirs, "ours": self.ours, "ratio": round(self.ratio, 4)}


def compare(ref: str, arguments: Sequence[str], rounds: int, console: Console) -> list[Comparison]:
    """Run the bench of ``ref`` and of this checkout in turn; return the figures that both have.

    ``arguments`` are those of the bench. Raise CalledProcessError if a run fails, or if ``ref`` names no commit.
    """
    theirs: list[RunFigures] = []
    ours: list[RunFigures] = []
    with tempfile.TemporaryDirectory(prefix="mailfold-against-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--quiet", "--detach", str(tree), ref)
        try:
            for number in range(1, rounds + 1):
                for name, root, figures in ((ref, tree, theirs), ("this checkout", _ROOT, ours)):
                    console.print(f"[dim]round {number} of {rounds}: {name}[/]")
                    figures.append(_run(root, arguments, Path(folder) / "figures.json"))
        finally:
            _git("worktree", "remove", "--force", str(tree))
    return pair_figures(theirs, ours)


def pair_figures(theirs: Sequence[RunFigures], ours: Sequence[RunFigures]) -> list[Comparison]:
    """Return a comparison of each figure that every run has, and that is never 0."""
    runs = [*theirs, *ours]
    names = [name for name in runs[0] if all(run.get(name) for run in runs)]
    return [Comparison(name, tuple(run[name] for run in theirs), tuple(run[name] for run in ours)) for name in names]


def read_figures(report: dict[str, Any]) -> RunFigures:
    """Return the figures of a bench's JSON report."""
    figures = {f"{rate['stage']}, {rate['unit']}/s": rate["per_second"] for rate in report["rates"]}
    figures |= {
        f"{delay['what'].partition(' (')[0]}, {name} ms": delay[f"{name}_ms"]
        for delay in report["latencies"]
        for name in ("p50", "p99")
    }
    # A commit of before costs were measured has none.
    figures |= {f"{cost['stage']}, {cost['what']}, {cost['unit']}": cost["value"] for cost in report.get("costs", ())}
    if report["idle_memory"]:
        figures["idle memory, RSS MB"] = report["idle_memory"]["rss_mb"]
    return figures


def comparison_table(ref: str, comparisons: Sequence[Comparison]) -> Table:
    """Return the comparisons as a table."""
    table = make_table("Figure", ref, "this checkout", "ratio")
    for each in comparisons:
        values = [
            " ".join(f"{value:,.{1 if value >= 10 else 3}f}" for value in run) for run in (each.theirs, each.ours)
        ]
        table.add_row(each.figure, *values, f"{each.ratio:.2f}")
    return table


def _run(root: Path, arguments: Sequence[str], report: Path) -> RunFigures:
    """Run the bench of a checkout and return its figures with the CPU seconds of all its processes."""
    command = [sys.executable, "-m", "bench", *arguments, "--json", str(report)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return read_figures(json.loads(report.read_text())) | {CPU_SECONDS + ", s": usage.ru_utime + usage.ru_stime}


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(_ROOT), *arguments], check=True, capture_output=True)
