"""Run the `mailfold` command as people do: to its end, or as a process that a test watches and stops."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.devstack.role_counts import ROLES
from pipeline.runtime.environment import environment_of
from pipeline.settings import Settings


@dataclass(frozen=True)
class Said:
    """A command's exit code and output."""

    code: int
    out: str
    err: str


def clean_environment(**more: str) -> dict[str, str]:
    """Return our environment without Mailfold's settings, so that a developer's settings do not affect a test."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAILFOLD_")}
    return {**inherited, "KAFKA_BOOTSTRAP": "", "DATABASE_URL": "", **more}


def mailfold(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "", cwd: Path | None = None) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        env=clean_environment(**(env or {})),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Said(done.returncode, done.stdout, done.stderr)


async def mailfold_on(settings: Settings, *arguments: str, stdin: str = "", **more: str) -> Said:
    """Run a command on a test's servers, in a thread, so that roles in this process keep running."""
    return await asyncio.to_thread(mailfold, *arguments, env=environment_of(settings) | more, stdin=stdin)


@asynccontextmanager
async def process(settings: Settings, role: str, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a role as production does, and kill it at the end of the block if it still runs."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline", role), env=clean_environment(**(environment_of(settings) | more))
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


class Up:
    """A running `mailfold up`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.output = ""

    @property
    def key(self) -> str:
        return self._found(r"API key +(\S+)")

    @property
    def gateway(self) -> str:
        return self._found(r"POST (\S+)/channels/email/batch")

    def ops(self, role: str) -> str:
        """Return the URL of a role's own endpoints."""
        return f"http://127.0.0.1:{self._found(rf'with PORT .*{role} ([0-9]+)')}"

    def children(self) -> dict[str, int]:
        return {path.name: int(path.read_text().split()[0]) for path in (self.folder / "pids").glob("[!.]*[!w]")}

    async def says(self, words: str, patience: float = 90.0) -> None:
        """Read its output until it contains these words."""
        assert self.process.stdout is not None
        async with asyncio.timeout(patience):
            while words not in self.output:
                line = await self.process.stdout.readline()
                assert line, f"it ended without {words!r} in its output:\n{self.output}"
                self.output += line.decode()

    async def ends(self, number: int = signal.SIGTERM, patience: float = 10.0) -> int:
        """Send a signal and return its exit code. Raise TimeoutError where it takes longer than it may."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), patience)

    def _found(self, pattern: str) -> str:
        match = re.search(pattern, self.output)
        assert match, self.output
        return match[1]


@asynccontextmanager
async def up(folder: Path, umask: int = -1, **env: str) -> AsyncIterator[Up]:
    """Run `mailfold up` with its data in ``folder`` on free ports, and end it with its children in any case."""
    names = ["MAILFOLD_PORT", "MAILFOLD_INBOUND_PORT", "MAILFOLD_SANDBOX_SMTP_PORT", "MAILFOLD_SANDBOX_HTTP_PORT"]
    names += [f"MAILFOLD_OPS_PORT_{role.upper()}" for role in ROLES if role != "sandbox"]
    ports = dict.fromkeys(names, "0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline", "up"),
        env=clean_environment(MAILFOLD_DATA_DIR=str(folder), PYTHONDONTWRITEBYTECODE="1", **ports, **env),
        umask=umask,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    running = Up(process, folder)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
        # An unread pipe would keep the process's transport open after the event loop is closed.
        assert process.stdout is not None
        await process.stdout.read()
        await process.wait()


def armed(point: str, folder: Path) -> dict[str, str]:
    """Return the environment variables that make a process crash at this point, once."""
    once_file = folder / "once"
    once_file.touch()
    return {"MAILFOLD_CRASH_AT": point, "MAILFOLD_CRASH_ONCE": str(once_file)}


async def ends(started: asyncio.subprocess.Process, patience: float = 30.0) -> int:
    """Wait until a process has ended, and return its exit code."""
    async with asyncio.timeout(patience):
        return await started.wait()


async def gone(pids: list[int], patience: float = 15.0) -> None:
    """Wait until none of these processes runs any more."""
    deadline = asyncio.get_running_loop().time() + patience
    while alive := [pid for pid in pids if _alive(pid)]:
        assert asyncio.get_running_loop().time() < deadline, f"still running: {alive}"
        await asyncio.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
