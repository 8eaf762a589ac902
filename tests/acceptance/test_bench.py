"""Run `python -m bench --quick`, and check that it runs every stage once, but not the figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.against import read_figures

FIGURES = {
    "dispatch, CPU of dispatch, ms/mail",
    "fold, CPU of worker, ms/event",
    "project, CPU of project, ms/change",
    "emit, CPU of emit, ms/conversion",
    "whole path, emails/s",
    "whole path, CPU of dispatch, ms/email",
    "whole path, CPU of our roles, ms/email",
    "whole path, CPU of kafka, ms/email",
    "whole path, CPU of postgres, ms/email",
    "whole path, records on the log, records/email",
    "whole path, bytes on the log, bytes/email",
    "whole path, Postgres transactions, count/email",
    "whole path, Postgres statements, count/email",
    "whole path, Postgres WAL, bytes/email",
    "idle, CPU of our roles, % of a core",
}
"""Names by which the figures of commits are compared."""
DIALECTS = [f"dialect {name}" for name in ("fasttrack", "email_v1", "freshmail", "extrahorizon")]


@pytest.mark.ci
@pytest.mark.timeout(400)
def test_every_stage_runs_and_writes_its_figures_and_its_peers(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", str(figures)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads(figures.read_text())
    stages = [rate["stage"] for rate in results["rates"]]
    stage_names = ["pixel", "webhooks", "normalize"]
    stage_names += ["dispatch", "fold", "project", "project", "emit", "rollups"]
    assert stages == ["accept", *DIALECTS, *stage_names, "whole path"]
    assert all(
        rate["per_second"] > 0 and rate["peer_per_second"] > 0 and rate["ratio"] > 0 for rate in results["rates"]
    )
    assert [delay["samples"] for delay in results["latencies"]] == [10, 500, 5, 5, 5]
    assert all(0 < delay["p50_ms"] <= delay["p99_ms"] for delay in results["latencies"])
    # CPU times are counted in hundredths of a second, which a quick run may not fill.
    assert {name for name in FIGURES if read_figures(results).get(name, -1) < 0} == set()
    assert {"kafka", "postgres", "gateway", "worker"} <= results["idle_memory"]["rss_mb_per_role"].keys()


def test_unknown_stage_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "teleport"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert "no such stage: teleport" in done.stderr
