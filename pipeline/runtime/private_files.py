"""Create folders and files that only their owner can open, whatever the umask is; used by whatever writes to disk.

The umask may be anything: 0 would open what is created, 0o777 would close it to ourselves.
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
    """Set a folder of ours to mode 0700, where an earlier version or a umask left it open."""
    if path.stat().st_mode & 0o777 != FOLDER_MODE:
        path.chmod(FOLDER_MODE)


def open_private(path: Path, flags: int) -> int:
    """Return a file descriptor of a file with mode 0600, created where it is missing."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    with contextlib.suppress(PermissionError):  # somebody else's file that we may write to: its mode is theirs
        os.fchmod(fd, FILE_MODE)
    return fd


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole with one of mode 0600: a crash leaves the old one or the new one."""
    data = content.encode() if isinstance(content, str) else content
    aside = path.with_name(f".{path.name}.{os.getpid()}")  # two processes may write the same file
    aside.unlink(missing_ok=True)
    with os.fdopen(open_private(aside, os.O_WRONLY | os.O_EXCL), "wb") as output:
        output.write(data)
        output.flush()
        os.fsync(output.fileno())
    aside.replace(path)
