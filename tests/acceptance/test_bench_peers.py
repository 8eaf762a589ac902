"""Run the comparison of engines on a tiny topic: each reads to the end, recovers, and has the same states."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.repository import ROOT
from tests.support.command import clean_environment

ENGINES = ("textbook", "quix", "streams", "ours", "ours:2")


def bench(folder: Path, *arguments: str) -> tuple[list[Any], str]:
    """Run the comparison; return the engines' figures and the output."""
    figures = folder / "figures.json"
    command = [sys.executable, "-m", "bench.peers", "--events", "2000", "--json", str(figures), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False, timeout=840
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(figures.read_text())["engines"], done.stdout


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.timeout(900)  # the first time, peers are fetched and compiled
def test_every_engine_has_the_states_of_a_plain_fold(tmp_path: Path) -> None:
    engines, printed = bench(tmp_path, *ENGINES)
    rows = {(row["engine"], row["processes"]): row for row in engines}
    assert list(rows) == [("textbook", 1), ("quix", 1), ("streams", 1), ("ours", 1), ("ours", 2)]
    for (_, processes), row in rows.items():
        assert row["states"] == 500
        assert row["different"] is None
        assert row["events_per_second"] > 0
        assert row["cpu_micros_per_event"] >= 0  # so few events may take less than the kernel's tick of 10 ms
        assert row["peak_rss_mb"] > 10
        assert (row["recovery_seconds"] is None) == (processes > 1)
    assert "500 equal" in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.ci
def test_engines_take_turns_and_have_the_same_states_in_each_round(tmp_path: Path) -> None:
    engines, _ = bench(tmp_path, "--rounds", "2", "quix", "ours")
    assert [(row["engine"], row["states"], row["different"]) for row in engines] == [
        ("quix", 500, None),
        ("ours", 500, None),
    ]
    assert all(row["between"][0] <= row["events_per_second"] <= row["between"][1] for row in engines)
