"""Read the modes of files and folders, for tests that these are private."""

import stat
from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """Return the paths in and with a folder that group or others have any access to, or that their owner can't read."""
    paths = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    return [f"{path} {mode(path):o}" for path in paths if mode(path) & 0o077 or not mode(path) & stat.S_IRUSR]
