"""Run `mailfold up` as people do: start it, kill its children and itself, stop it, start it again."""

import asyncio
import signal
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pipeline.devstack.role_counts import ROLES
from tests.support.command import Up, gone, mailfold, up
from tests.support.modes import mode, open_to_others

pytestmark = pytest.mark.timeout(300)
SERVERS = {"kafka", "postgres"}


async def test_stack_starts_survives_kills_and_continues_where_it_stopped(stack_folder: Path) -> None:
    folder = stack_folder
    async with up(folder, umask=0) as first:
        await first.says("Ctrl-C stops everything")
        assert set(first.children()) == {*ROLES, *SERVERS}
        assert _get(f"{first.gateway}/healthz") == 200
        _assert_private(folder)
        await _assert_every_role_is_observed(first)
        assert _memory_bytes(first.process.pid) < 1_000_000_000

        again = mailfold("up", env={"MAILFOLD_DATA_DIR": str(folder)})
        assert again.code == 1
        assert f"already in use by process {first.process.pid}" in again.err

        listed = mailfold("brands", "list", env={"MAILFOLD_DATA_DIR": str(folder)})
        assert listed.code == 0, listed.err
        assert listed.out.splitlines()[1].split()[:3] == ["default", "*", "sandbox"]

        for name in ("dispatch", "gateway", "postgres", "kafka"):
            await _kill_and_wait_for_restart(first, name)
        children = list(first.children().values())
        assert await first.ends(signal.SIGINT) == 0
        await gone(children)

    async with up(folder, umask=0o777) as second:
        await second.says("Ctrl-C stops everything")
        assert (second.key, second.gateway) == (first.key, first.gateway)
        assert _get(f"{second.gateway}/healthz") == 200
        _assert_private(folder)

        orphans = list(second.children().values())
        second.process.kill()
        await second.process.wait()
        await gone(orphans)

    async with up(folder) as third:
        await third.says("Ctrl-C stops everything")
        assert third.key == first.key
        assert await third.ends() == 0


async def test_ctrl_c_during_the_start_leaves_no_process(stack_folder: Path) -> None:
    async with up(stack_folder) as starting:
        await starting.says("kafka: starting")
        children = [child.pid for child in psutil.Process(starting.process.pid).children(recursive=True)]
        assert await starting.ends(signal.SIGINT) == 0
        await gone(children)


async def _assert_every_role_is_observed(running: Up) -> None:
    """Assert that each role is alive, becomes ready, and shows the metrics of its own work."""
    own = {
        "gateway": "mailfold_http_requests_total",
        "worker": 'mailfold_lag_records{partition="0",reader="worker",topic="send-requests"}',
        "dispatch": 'mailfold_lag_records{partition="0",reader="dispatch",topic="send-requests"}',
        "project": 'mailfold_lag_records{partition="0",reader="project",topic="email-changes"}',
        "emit": 'mailfold_jobs_in_hand{queue="emit"}',
    }
    for role, metric in own.items():
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(_healthy, running.ops(role), "readyz"):
                await asyncio.sleep(0.1)
            while f"\n{metric}" not in (shown := await asyncio.to_thread(_read, f"{running.ops(role)}/metrics")):
                await asyncio.sleep(0.1)
        assert _get(f"{running.ops(role)}/healthz") == 200
        assert "\nmailfold_ready 1.0" in shown
        assert "\nprocess_resident_memory_bytes" in shown
    _assert_doctor_finds_every_role_ready(running.folder)
    await _assert_frozen_role_is_not_alive(running)


def _assert_doctor_finds_every_role_ready(folder: Path) -> None:
    examined = mailfold("doctor", env={"MAILFOLD_DATA_DIR": str(folder)})
    assert examined.code == 0, examined.out
    assert [line for line in examined.out.splitlines() if " roles " in line] == [
        f"ok    roles     {role} is ready" for role in ROLES if role != "sandbox"
    ]


async def _assert_frozen_role_is_not_alive(running: Up) -> None:
    emitter = psutil.Process(running.children()["emit"])
    emitter.suspend()
    try:
        assert not await asyncio.to_thread(_healthy, running.ops("emit"), timeout_s=2)
    finally:
        emitter.resume()
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(_healthy, running.ops("emit")):
            await asyncio.sleep(0.1)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:
        status: int = answer.status
        return status


def _memory_bytes(supervisor: int) -> int:
    """Return the bytes of memory of the whole stack; of a shared page each process counts its part."""
    root = psutil.Process(supervisor)
    return sum(_memory_of_process(process) for process in (root, *root.children(recursive=True)))


def _memory_of_process(process: psutil.Process) -> int:
    """Return a process's proportional set size where the system has it (Linux), else its resident set size."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.rss))


def _assert_private(folder: Path) -> None:
    for name in (
        "api-key",
        "api-key.header",
        "secret",
        "example.json",
        "gateway.port",
        "postgres/password",
        "logs/gateway.log",
    ):
        assert mode(folder / name) == 0o600, name
    # The folder above existed before: root's home, or another folder that is closed to others.
    above = folder.parents[3]
    assert mode(above) == 0o700
    assert open_to_others(above) == []


async def _kill_and_wait_for_restart(running: Up, name: str) -> None:
    before = running.children()[name]
    psutil.Process(before).kill()
    await running.says(f"{name} was killed by SIGKILL; it starts again")
    async with asyncio.timeout(60):
        while running.children().get(name, before) == before:
            await asyncio.sleep(0.1)
        while name == "gateway" and not await asyncio.to_thread(_healthy, running.gateway):
            await asyncio.sleep(0.1)


def _healthy(url: str, path: str = "healthz", timeout_s: float = 10) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/{path}", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
