"""`mailfold demo` as its watcher meets it: the real command, without a terminal, on a stack of its own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SEVEN = ("delivered", "open", "click", "spam", "bounce", "dropped", "failed")
BUDGET = 150.0
"""Seconds. A minute is promised on a machine of its own; the tests share theirs."""


def demo(temporary: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run it to the end, its folder in one that we can look into, with settings around that must not matter."""
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
    """Processes whose command line or environment names this run's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            spoken = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        if str(temporary / "mailfold-demo-").encode() in spoken:
            found.append(process.name)
    return found


@pytest.mark.timeout(200)
def test_all_seven_words_arrive_and_nothing_is_left_behind(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    for word in SEVEN:
        owed, arrived = re.findall(rf"^{word} +(\d+) +(\d+) +✓", done.stdout, re.MULTILINE)[0]
        assert int(owed) == int(arrived) > 0
    assert "page 2:" in done.stdout
    assert "conversion click" in done.stdout
    for number in range(1, 6):
        assert f"Step {number} of 5: " in done.stdout
    assert "✓ each with its activity byte for byte as sent" in done.stdout
    assert list(tmp_path.glob("mailfold-demo-*")) == []
    assert left_running(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_halfway_it_ends_what_it_started_and_takes_its_folder_with_it(tmp_path: Path, number: int) -> None:
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
def test_a_withheld_conversion_fails_the_demo_which_says_what_is_missing_and_where_to_look(tmp_path: Path) -> None:
    done = demo(tmp_path, "--withhold", "spam", "--patience", "20")
    assert done.returncode == 1, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"first-nordlicht-complaint-1 \([0-9a-f-]{36}\): spam is missing", done.stdout)
    assert "no email had the conversion spam" in done.stdout
    folder = Path(re.findall(r"logs are kept in (\S+)/logs", done.stdout)[0])
    assert (folder / "logs" / "emit.log").exists()
    assert left_running(tmp_path) == []
