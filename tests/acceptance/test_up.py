"""`mailfold up` as people use it: started, killed, stopped, started again."""

import asyncio
import signal
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pipeline.devstack.supervisor import ROLES
from tests.support.command import Up, gone, mailfold, up
from tests.support.modes import mode, open_to_others

pytestmark = pytest.mark.timeout(300)
SERVERS = {"kafka", "postgres"}


async def test_a_stack_comes_up_survives_what_is_done_to_it_and_goes_on_where_it_stopped(stack_folder: Path) -> None:
    folder = stack_folder
    async with up(folder, umask=0) as first:
        await first.says("Ctrl-C stops everything")
        assert set(first.children()) == {*ROLES, *SERVERS}
        assert _get(f"{first.gateway}/healthz") == 200
        _is_private(folder)
        assert _resident(first.process.pid) < 1_000_000_000

        again = mailfold("up", env={"MAILFOLD_DATA_DIR": str(folder)})
        assert again.code == 1
        assert f"already in use by process {first.process.pid}" in again.err

        said = mailfold("brands", "list", env={"MAILFOLD_DATA_DIR": str(folder)})
        assert said.code == 0, said.err
        assert said.out.splitlines()[1].split()[:3] == ["default", "*", "sandbox"]

        for name in ("dispatch", "gateway", "postgres", "kafka"):
            await _killed_and_back(first, name)
        children = list(first.children().values())
        assert await first.ends(signal.SIGINT) == 0
        await gone(children)

    async with up(folder, umask=0o777) as second:
        await second.says("Ctrl-C stops everything")
        assert (second.key, second.gateway) == (first.key, first.gateway)
        assert _get(f"{second.gateway}/healthz") == 200
        _is_private(folder)

        orphans = list(second.children().values())
        second.process.kill()
        await second.process.wait()
        await gone(orphans)

    async with up(folder) as third:
        await third.says("Ctrl-C stops everything")
        assert third.key == first.key
        assert await third.ends() == 0


async def test_ctrl_c_while_it_starts_leaves_nothing_behind(stack_folder: Path) -> None:
    async with up(stack_folder) as begun:
        await begun.says("kafka: starting")
        children = [child.pid for child in psutil.Process(begun.process.pid).children(recursive=True)]
        assert await begun.ends(signal.SIGINT) == 0
        await gone(children)


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:
        status: int = answer.status
        return status


def _resident(supervisor: int) -> int:
    """Return the bytes of memory that the whole stack uses; a page that processes share counts once, in parts."""
    whole = psutil.Process(supervisor)
    return sum(_share(process) for process in (whole, *whole.children(recursive=True)))


def _share(process: psutil.Process) -> int:
    """Return a process's proportional set size where the system tells it (Linux), else its resident set size."""
    told = process.memory_full_info()
    return int(getattr(told, "pss", told.rss))


def _is_private(folder: Path) -> None:
    for name in ("api-key", "secret", "example.json", "gateway.port", "postgres/password", "logs/gateway.log"):
        assert mode(folder / name) == 0o600, name
    # What was there before is root's home, or another folder that is nobody else's.
    above = folder.parents[3]
    assert mode(above) == 0o700
    assert open_to_others(above) == []


async def _killed_and_back(running: Up, name: str) -> None:
    before = running.children()[name]
    psutil.Process(before).kill()
    await running.says(f"{name} was killed by SIGKILL; it starts again")
    async with asyncio.timeout(60):
        while running.children().get(name, before) == before:
            await asyncio.sleep(0.1)
        while name == "gateway" and not await asyncio.to_thread(_healthy, running.gateway):
            await asyncio.sleep(0.1)


def _healthy(gateway: str) -> bool:
    try:
        return _get(f"{gateway}/healthz") == 200
    except (urllib.error.URLError, OSError):
        return False
