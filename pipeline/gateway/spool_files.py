"""The spool's files, which survive a crash: each line is on the disk before its write returns.

Every process writes to a file of its own and keeps it locked. A file that is not locked (the process's own after
:meth:`SpoolSegments.rotate`, or one that a dead process left) may be read and removed by any process.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.runtime.private_files import make_private_folder, open_private

FILE_MAX_BYTES: Final = 8_000_000
"""Size of one file, which is read into memory as a whole when it is drained."""
FOLDER_MAX_BYTES: Final = 1_000_000_000
"""Size of all files together, about three million opens. A full disk would stop the whole machine."""


class SpoolSegments:
    """One process's spool files in a folder that it may share with others. Blocking: call it from a thread."""

    def __init__(self, folder: Path, max_bytes: int = FOLDER_MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._fd: int | None = None

    def write(self, lines: list[bytes], name: str) -> None:
        """Append lines to the current file and sync it; start a file called ``name`` if none has room.

        Raise OSError where the lines could not be written: none of them counts as spooled then.
        """
        data = b"".join(line + b"\n" for line in lines)
        if self._fd is not None and os.fstat(self._fd).st_size + len(data) > FILE_MAX_BYTES:
            self.rotate()
        if self._fd is None:
            if self._total_bytes() + len(data) > self._max_bytes:
                raise OSError(f"the spool is full: {self._max_bytes} bytes; Kafka has been unavailable for too long")
            self._fd = self._create(name)
        # One write, so that a crash can cut off only its end; a line that was cut off was never confirmed.
        if os.write(self._fd, data) != len(data):
            self.rotate()
            raise OSError("the disk is full")
        os.fsync(self._fd)

    def rotate(self) -> None:
        """Close and unlock the current file; the next write starts another."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def pending(self) -> list[Path]:
        """Return the folder's files, oldest first: their names sort by time."""
        return sorted(self._folder.glob("*.events"))

    @contextlib.contextmanager
    def locked_lines(self, path: Path) -> Iterator[list[bytes] | None]:
        """Lock a file and yield its lines; yield None if another process has locked it or it is gone."""
        fd = _lock(path)
        try:
            # What follows the last line break is a write that a crash cut off.
            yield None if fd is None else path.read_bytes().split(b"\n")[:-1]
        finally:
            if fd is not None:
                os.close(fd)

    def finish(self, path: Path, *, readable: bool) -> None:
        """Remove a file whose lines are on the log; rename it to `*.unreadable` if some could not be decoded."""
        if readable:
            path.unlink(missing_ok=True)
        else:
            path.rename(path.with_suffix(".unreadable"))

    def _total_bytes(self) -> int:
        """Return the size of all pending files."""
        total = 0
        for path in self.pending():
            # Another process may remove a file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _create(self, name: str) -> int:
        """Create and lock a file; return its descriptor."""
        make_private_folder(self._folder)
        path = self._folder / f"{name}.events"
        fd = open_private(path, os.O_WRONLY | os.O_APPEND)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _is_same_file(path, fd):
            # Another process found the file before it was locked, and removed it because it was empty.
            os.close(fd)
            return self._create(name)
        _sync_folder(self._folder)
        return fd


def _lock(path: Path) -> int | None:
    """Open and lock a file; return its descriptor, or None if another process has locked it or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if _is_same_file(path, fd):
        return fd
    os.close(fd)
    return None


def _is_same_file(path: Path, fd: int) -> bool:
    """Return whether the open file still has this path: it may have been removed before it was locked."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    # Without this the new file's name may be lost when the machine crashes.
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
