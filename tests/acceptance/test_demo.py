"""Run the real command `mailfold demo`, without a terminal, on its own stack."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONVERSION_WORDS = ("delivered", "open", "click", "spam", "bounce", "dropped", "failed")
TIMEOUT_S = 150.0
"""Seconds for a demo; a minute is promised on an idle machine, which the tests' is not."""


def demo(temporary: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the demo to its end, with its data folder in ``temporary`` and settings in the environment to be ignored."""
    misleading = {
        "KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "DATABASE_URL": "postgresql://127.0.0.1:1/nowhere",
        "MAILFOLD_PUBLIC_URL": "http://stranger.test",
        "MAILFOLD_TOPIC_PREFIX": "strangers-",
    }
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "demo", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **misleading, "TMPDIR": str(temporary)},
    )


def left_running(temporary: Path) -> list[str]:
    """Return the ids of processes whose command line or environment names this run's folder."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        if str(temporary / "mailfold-demo-").encode() in text:
            pids.append(process.name)
    return pids


@pytest.mark.timeout(200)
def test_demo_shows_all_seven_words_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    for word in CONVERSION_WORDS:
        owed, arrived = re.findall(rf"^{word} +(\d+) +(\d+) +✓", done.stdout, re.MULTILINE)[0]
        assert int(owed) == int(arrived) > 0
    assert "page 2:" in done.stdout
    assert "conversion click" in done.stdout
    assert "byte for byte as sent" in done.stdout
    assert list(tmp_path.glob("mailfold-demo-*")) == []
    assert left_running(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_ends_its_processes_and_removes_its_folder(tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    with process:
        assert any("gateway: starting" in line for line in process.stdout)
        process.send_signal(number)
        assert process.wait(timeout=20) == 130
    assert list(tmp_path.glob("mailfold-demo-*")) == []
    assert left_running(tmp_path) == []


@pytest.mark.timeout(200)
def test_withheld_conversion_fails_the_demo_which_names_it_and_its_logs(tmp_path: Path) -> None:
    done = demo(tmp_path, "--withhold", "spam", "--patience", "20")
    assert done.returncode == 1, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"first-nordlicht-complaint-1 \([0-9a-f-]{36}\): spam is missing", done.stdout)
    assert "the word spam never occurred" in done.stdout
    folder = Path(re.findall(r"what happened is in (\S+)/logs", done.stdout)[0])
    assert (folder / "logs" / "emit.log").exists()
    assert left_running(tmp_path) == []
