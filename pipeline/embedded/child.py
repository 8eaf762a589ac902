"""A child process in a session of its own: started, watched, ended by its own process id."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Child:
    """One server process with its output in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def running(self) -> bool:
        """Whether it is still there."""
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM, patience: float = 8.0) -> None:
        """Ask it to end with ``number``, wait ``patience`` seconds, then kill it."""
        if self.running():
            self.process.send_signal(number)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


def spawn(
    command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, user: str | None = None
) -> Child:
    """Start a command, detached from our terminal's Ctrl-C: we end it ourselves, in the right order."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            user=user,
        )
    return Child(process, log)
