"""Start a child process with its output in a file, and stop it; it ends when this process does.

The supervisor, the embedded servers and the tests use it.
"""

import asyncio
import os
import pwd
import shutil
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
"""Bytes of a log above which its content is moved to `….log.1`."""

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
"""A Python program that becomes the child after it asked the kernel for a signal at our death (PR_SET_PDEATHSIG,
prctl(2)), so that kill -9 on a supervisor leaves no orphan. It is a separate process, because running Python between
fork and exec in a process with threads may deadlock. It asks after the change of user, which would clear the request.
Its umask makes all files of the child private to the child's user."""


class StartupFailed(RecoverableError):
    """An embedded server or a role that did not start."""


@dataclass(frozen=True)
class Program:
    """A program to run: its arguments, environment and user, the file of its output, and the signals that end it."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables that are added to our own environment."""
    stop_signal: int = signal.SIGTERM
    orphan_signal: int = signal.SIGKILL
    """The signal that the kernel sends when we are killed; SIGKILL for programs that need no clean shutdown."""
    user: str | None = None
    working_dir: Path | None = None
    """The folder in which it starts, entered before the change of user, who may have no access to the folders above."""


class ChildProcess:
    """A child process with its output in a file."""

    def __init__(self, process: subprocess.Popen[bytes], program: Program) -> None:
        self.process = process
        self.program = program

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """Return the file of its output."""
        return self.program.log

    def is_running(self) -> bool:
        """Return whether it has not ended yet."""
        return self.process.poll() is None

    async def wait_until_exit(self) -> int:
        """Wait until it ends, and return its exit code."""
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.1)
        return code

    def stop(self, number: int | None = None, timeout_s: float = 8.0) -> None:
        """Send its stop signal, or the signal ``number``; kill it where it still runs after ``timeout_s``."""
        if self.is_running():
            self.process.send_signal(self.program.stop_signal if number is None else number)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    async def stop_async(self, timeout_s: float) -> None:
        """Send the program's stop signal, also to a suspended process, and kill it after ``timeout_s``."""
        if self.is_running():
            self.process.send_signal(self.program.stop_signal)
            # A process that SIGSTOP suspended handles the stop signal only after SIGCONT.
            self.process.send_signal(signal.SIGCONT)
            try:
                async with asyncio.timeout(timeout_s):
                    await self.wait_until_exit()
            except TimeoutError:
                self.process.kill()
        await self.wait_until_exit()

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log, for an error message."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 16_000))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


def spawn(program: Program) -> ChildProcess:
    """Start a program in a new session, so that Ctrl-C reaches this process only, which stops children in order.

    Call it from the main thread: the kernel signals the child when the *thread* that started it ends.
    """
    make_private_folder(program.log.parent)
    rotate_log(program.log)
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


def rotate_log(log: Path) -> None:
    """Move the content of a log that has become too large to `….log.1`.

    The program may be running: it appends to the same file, which is emptied and not replaced. What it writes in the
    milliseconds between the copy and that is lost.
    """
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        earlier = log.with_name(log.name + ".1")
        earlier.unlink(missing_ok=True)
        with os.fdopen(open_private(earlier, os.O_WRONLY), "wb") as copy, log.open("rb") as content:
            shutil.copyfileobj(content, copy)
        os.truncate(log, 0)
