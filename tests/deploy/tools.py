"""Install the release tools once, for whichever test needs them first."""

import fcntl

import pytest

from tests.architecture.repository import ROOT
from tests.support.environments import run


def install_release_tools() -> None:
    """Make `.venv/release`; skip the test where Helm's library has no wheel. Test processes wait for each other."""
    with (ROOT / ".venv" / ".release-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("make", ".venv/.release")
    if "No matching distribution found for helm-python-sdk" in done.stderr + done.stdout:
        pytest.skip("Helm's library has no wheel for this machine")
    assert done.returncode == 0, done.stderr
