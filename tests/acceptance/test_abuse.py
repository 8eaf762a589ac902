"""Run `python -m tests.abuse` with one attack on a whole stack, and check its report but not the figures in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def abuse(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.abuse", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.timeout(300)
def test_attack_runs_beside_innocent_emails_and_is_reported(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    attack = ("--only", "bounce-words", "--seconds", "2", "--rate", "2", "--json", str(figures))
    done = abuse(*attack)
    assert figures.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(figures.read_text())
    [result] = report["attacks"]
    assert result["name"] == "bounce-words"
    assert result["strokes"] > 0
    assert report["undisturbed"]["email"]["count"] == report["undisturbed"]["webhook"]["count"] == 8
    assert result["email"]["count"] + result["lost"] >= 4
    assert done.returncode == (0 if result["held"] else 1)
    assert "bounce-words" in done.stdout


def test_unknown_attack_is_refused() -> None:
    done = abuse("--only", "teleport")
    assert done.returncode == 2
    assert "no attack teleport" in done.stdout


def test_every_attack_is_documented() -> None:
    from tests.abuse.attacks import ATTACKS

    documented = (ROOT / "docs" / "explanation" / "abuse.md").read_text()
    assert [name for name in ATTACKS if f"| {name} |" not in documented] == []
