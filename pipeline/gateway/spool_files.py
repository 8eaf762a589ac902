"""Lines -> files that survive a crash: each line is on the disk before its write returns.

Every process writes a file of its own, locked while it lives; whoever finds a file unlocked (its
own after :meth:`Segments.rotate`, or one that a dead process left) may take it over.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.runtime.private_files import make_private_folder, open_private

FILE_MAX_BYTES: Final = 8_000_000
"""About how long a file gets: whoever takes it over has it in memory."""
FOLDER_MAX_BYTES: Final = 1_000_000_000
"""Of all files: some three million opens. A disk filled to the brim would stop the whole machine."""


class SpoolSegments:
    """One process's files in a folder it may share with others. Blocking: call it from a thread."""

    def __init__(self, folder: Path, most: int = FOLDER_MAX_BYTES) -> None:
        self._folder = folder
        self._most = most
        self._fd: int | None = None

    def write(self, lines: list[bytes], name: str) -> None:
        """Append to the current file and sync; to one begun as ``name`` if there is none with room. Raises OSError."""
        data = b"".join(line + b"\n" for line in lines)
        if self._fd is not None and os.fstat(self._fd).st_size + len(data) > FILE_MAX_BYTES:
            self.rotate()
        if self._fd is None:
            if self._bytes() + len(data) > self._most:
                raise OSError(f"the spool has {self._most} bytes; the log has been away for too long")
            self._fd = self._begin(name)
        # One write, so that only its end can be torn, and a torn line was never confirmed.
        if os.write(self._fd, data) != len(data):
            self.rotate()
            raise OSError("the disk is full")
        os.fsync(self._fd)

    def rotate(self) -> None:
        """Let go of the current file; the next write begins another."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def pending(self) -> list[Path]:
        """The folder's files, oldest first (their names are sortable by time)."""
        return sorted(self._folder.glob("*.events"))

    @contextlib.contextmanager
    def locked_lines(self, path: Path) -> Iterator[list[bytes] | None]:
        """A file's lines while it is locked; None if another process holds it or it is gone."""
        fd = _lock(path)
        try:
            # What follows the last line's end is a torn write.
            yield None if fd is None else path.read_bytes().split(b"\n")[:-1]
        finally:
            if fd is not None:
                os.close(fd)

    def finish(self, path: Path, *, readable: bool) -> None:
        """Remove a file whose lines are on the log; one with lines that nobody understood is put aside."""
        if readable:
            path.unlink(missing_ok=True)
        else:
            path.rename(path.with_suffix(".unreadable"))

    def _bytes(self) -> int:
        """Of all files; one may go while they are counted."""
        total = 0
        for path in self.pending():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _begin(self, name: str) -> int:
        make_private_folder(self._folder)
        path = self._folder / f"{name}.events"
        fd = open_private(path, os.O_WRONLY | os.O_APPEND)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _is_still(path, fd):
            # Another process found it empty and unlocked, and took it away.
            os.close(fd)
            return self._begin(name)
        _sync_folder(self._folder)
        return fd


def _lock(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if _is_still(path, fd):
        return fd
    os.close(fd)
    return None


def _is_still(path: Path, fd: int) -> bool:
    """Whether the open file is the one of this name: between open and lock it may have gone."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    # Without this a crash of the machine may forget the new file's name.
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
