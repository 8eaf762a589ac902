"""Process ids kept by a supervisor that was killed in; its children ended, by those ids and nothing else."""

import contextlib
import signal
from pathlib import Path

import psutil

from pipeline.devstack.servers.data_dir import make_folder
from pipeline.runtime.private_files import replace_file


class PidFiles:
    """A file per running child: its process id, and when that process began, since ids are used again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remember(self, name: str, pid: int) -> None:
        """Note a child."""
        make_folder(self._folder)
        with contextlib.suppress(psutil.NoSuchProcess):
            replace_file(self._folder / name, f"{pid} {psutil.Process(pid).create_time()}")

    def forget(self, name: str) -> None:
        """The child is gone."""
        (self._folder / name).unlink(missing_ok=True)

    def running_pids(self) -> dict[str, int]:
        """The children that are there, with their process ids."""
        return {name: process.pid for name, process in self._found().items()}

    def end_orphans(self, ends_by: dict[str, int], patience: float = 10.0) -> list[str]:
        """End what an earlier supervisor left running: first as asked, then by force. The names of what was there."""
        found = self._found()
        for name, process in found.items():
            _send(process, ends_by.get(name, signal.SIGKILL))
        _, alive = psutil.wait_procs(list(found.values()), timeout=patience)
        for process in alive:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=patience)
        for path in self._files():
            path.unlink(missing_ok=True)
        return sorted(found)

    def _found(self) -> dict[str, psutil.Process]:
        return {path.name: process for path in self._files() if (process := _same(path)) is not None}

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("[!.]*")) if self._folder.exists() else []


def _same(path: Path) -> psutil.Process | None:
    """The process that the file speaks of, if it still runs."""
    try:
        pid, began = path.read_text().split()
        process = psutil.Process(int(pid))
        # The kernel counts from boot in ticks; the wall clock that they are added to may have been set since.
        alive = process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(began)) < 2
    except (psutil.NoSuchProcess, ValueError):
        return None
    return process if alive else None


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
