"""Create folders and files that only their owner can open, for all code that writes to disk.

No umask is trusted: 0 would open a new file to everybody, 0o777 would close it to us, too.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


def make_private_folder(path: Path) -> None:
    """Create a folder, and those above it that are missing, with mode 0700; leave existing ones as they are.

    Raises OSError, FileExistsError where something else has that name.
    """
    try:
        path.mkdir(mode=FOLDER_MODE)
    except FileNotFoundError:
        make_private_folder(path.parent)
        make_private_folder(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(FOLDER_MODE)


def narrow_folder(path: Path) -> None:
    """Set a folder of ours to mode 0700, where an earlier version or another umask gave it another."""
    if path.stat().st_mode & 0o777 != FOLDER_MODE:
        path.chmod(FOLDER_MODE)


def open_private(path: Path, flags: int) -> int:
    """Return a file descriptor of a file with mode 0600, created where it is missing."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    with contextlib.suppress(PermissionError):  # another user's file that we may write to: only its owner sets its mode
        os.fchmod(fd, FILE_MODE)
    return fd


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a whole file with one of mode 0600, atomically: a crash leaves the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # two processes may write the same file
    temporary.unlink(missing_ok=True)
    with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_EXCL), "wb") as output:
        output.write(data)
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(path)
