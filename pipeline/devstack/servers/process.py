"""A program to run in; a child process out: started, watched, ended by its own process id, gone when we are."""

import asyncio
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.errors import RecoverableError
from pipeline.runtime.private_files import make_private_folder, open_private

LOG_MAX_BYTES: Final = 10_000_000
"""Bytes; a longer log becomes `….log.1` when its program is started again."""

_SHIM: Final = """\
import ctypes, os, signal, sys
os.umask(0o077)
number, parent, user, group = map(int, sys.argv[1:5])
if user >= 0:
    os.setgroups([]); os.setgid(group); os.setuid(user)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number)
    if os.getppid() != parent:
        sys.exit(0)
os.execv(sys.argv[5], sys.argv[5:])
"""
"""Becomes the program, after asking the kernel for a signal when we die (PR_SET_PDEATHSIG, prctl(2)), so that
kill -9 on a supervisor leaves no orphan. A process of its own, because running Python between fork and exec
in a process that has threads may deadlock; and the request must come after the change of user, which voids it.
With its umask, whatever a child writes is its user's own."""


class StartupFailed(RecoverableError):
    """An embedded server did not start."""


@dataclass(frozen=True)
class Program:
    """What to run, as whom, where its output goes, and which signal ends it."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to our own environment."""
    stop_signal: int = signal.SIGTERM
    orphan_signal: int = signal.SIGKILL
    """Sent by the kernel when we are killed: for what need not say good-bye, SIGKILL."""
    user: str | None = None
    working_dir: Path | None = None
    """Where it starts. It is entered before the change of user, who may have no way to it through the folders above."""


class ChildProcess:
    """One process with its output in a file."""

    def __init__(self, process: subprocess.Popen[bytes], program: Program) -> None:
        self.process = process
        self.program = program

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.program.log

    def is_running(self) -> bool:
        """Whether it is still there."""
        return self.process.poll() is None

    async def wait_until_exit(self) -> int:
        """Its exit code, once it has one."""
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.1)
        return code

    def stop(self, number: int | None = None, patience: float = 8.0) -> None:
        """Ask it to end, wait ``patience`` seconds, then kill it."""
        if self.is_running():
            self.process.send_signal(self.program.stop_signal if number is None else number)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    async def stop_async(self, patience: float) -> None:
        """:meth:`stop`, without blocking the loop."""
        if self.is_running():
            self.process.send_signal(self.program.stop_signal)
            # A frozen process (SIGSTOP) can't obey before it is thawed.
            self.process.send_signal(signal.SIGCONT)
            try:
                await asyncio.wait_for(self.wait_until_exit(), patience)
            except TimeoutError:
                self.process.kill()
        await self.wait_until_exit()

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log, for an error message."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 16_000))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


def spawn(program: Program) -> ChildProcess:
    """Start a program in a session of its own: our terminal's Ctrl-C is for us, who end it in the right order.

    Call it from the main thread: the kernel takes the death of the *thread* that started it for ours.
    """
    make_private_folder(program.log.parent)
    _rotate(program.log)
    user, group = _ids(program.user)
    shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(int(program.orphan_signal)), str(os.getpid()), user, group]
    with os.fdopen(open_private(program.log, os.O_WRONLY | os.O_APPEND), "ab") as output:
        process = subprocess.Popen(
            [*shim, *program.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **program.env},
            start_new_session=True,
            cwd=program.working_dir,
        )
    return ChildProcess(process, program)


def _ids(user: str | None) -> tuple[str, str]:
    if user is None:
        return "-1", "-1"
    entry = pwd.getpwnam(user)
    return str(entry.pw_uid), str(entry.pw_gid)


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        log.replace(log.with_name(log.name + ".1"))
