"""Modes of files and folders, as the tests about privacy read them."""

import stat
from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """The folder and what is below it, as far as group or others may do anything with it, or its owner can't."""
    found = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    return [f"{path} {mode(path):o}" for path in found if mode(path) & 0o077 or not mode(path) & stat.S_IRUSR]
