"""`mailfold demo`, run as a command without a terminal, on a stack of its own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SEVEN = ("delivered", "open", "click", "spam", "bounce", "dropped", "failed")
BUDGET = 150.0
"""Seconds that one run may take; about a minute on an idle machine, but tests share theirs."""


def demo(temporary: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the demo with its folder in ``temporary``, and with settings in the environment that it must ignore."""
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
        timeout=BUDGET,
        check=False,
        env={**os.environ, **misleading, "TMPDIR": str(temporary)},
    )


def left_running(temporary: Path) -> list[str]:
    """Return the ids of processes whose command line or environment names this run's folder."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        if str(temporary / "mailfold-demo-").encode() in texts:
            pids.append(process.name)
    return pids


@pytest.mark.timeout(200)
def test_all_seven_conversions_arrive_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    for word in SEVEN:
        expected, received = re.findall(rf"^{word} +(\d+) +(\d+) +✓", done.stdout, re.MULTILINE)[0]
        assert int(expected) == int(received) > 0
    assert "page 2:" in done.stdout
    assert "conversion click" in done.stdout
    for number in range(1, 6):
        assert f"Step {number} of 5: " in done.stdout
    assert "✓ each with its activity byte for byte as sent" in done.stdout
    assert list(tmp_path.glob("mailfold-demo-*")) == []
    assert left_running(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_demo_ends_its_processes_and_removes_its_folder(tmp_path: Path, number: int) -> None:
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


@pytest.mark.ci
@pytest.mark.timeout(200)
def test_demo_without_a_conversion_fails_and_names_it_and_the_logs(tmp_path: Path) -> None:
    done = demo(tmp_path, "--withhold", "spam", "--patience", "20")
    assert done.returncode == 1, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"first-nordlicht-complaint-1 \([0-9a-f-]{36}\): spam is missing", done.stdout)
    assert "no email had the conversion spam" in done.stdout
    folder = Path(re.findall(r"logs are kept in (\S+)/logs", done.stdout)[0])
    assert (folder / "logs" / "emit.log").exists()
    assert left_running(tmp_path) == []
