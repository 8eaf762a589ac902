"""A real PostgreSQL from a wheel's binaries, as our own child on a loopback port."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg

from pipeline.devstack.servers.postgres_programs import find_programs, public_programs, server_user
from pipeline.devstack.servers.process import ChildProcess, Program, StartupFailed, spawn
from pipeline.runtime.private_files import FILE_MODE, make_private_folder, narrow_folder, replace_file

_WORKING_DIR_LINK: Final = Path("/proc/self/cwd")
"""The folder a process works in, by a link that needs no way through the folders above (Linux)."""

_SERVER_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may have 107 bytes; a data folder's may be longer
    "max_connections": "100",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "20s",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
}


def prepare_program(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> tuple[Program, str]:
    """A server on 127.0.0.1:port with its data in ``folder``, ready to be spawned; and its libpq URL.

    Raises NotStarted.
    """
    make_private_folder(folder)
    narrow_folder(folder)
    programs, data = find_programs(), folder / "data"
    user = server_user(data) if os.geteuid() == 0 else None
    if user is not None:
        programs = public_programs(programs)
    password = _password(folder)
    if not (data / "PG_VERSION").exists():
        tell("Postgres: creating its cluster")
        _initdb(programs, folder, password, user)
    _forget_dead_postmaster(data)
    options = [part for name, value in _SERVER_SETTINGS.items() for part in ("-c", f"{name}={value}")]
    argv = (str(programs / "postgres"), "-D", _place(data, user), "-p", str(port), *options)
    # SIGINT is its fast shutdown: it closes connections and writes a checkpoint.
    ends_by = signal.SIGINT
    server = Program(
        "postgres", argv, folder / "postgres.log", {}, ends_by, orphan_signal=ends_by, user=user, working_dir=data
    )
    return server, url(folder, port)


def start(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> tuple[ChildProcess, str]:
    """Start a server on 127.0.0.1:port with its data in ``folder``; the child and its libpq URL, once it answers.

    Raises NotStarted with the end of its log.
    """
    prepared, address = prepare_program(folder, port, tell=tell)
    child = spawn(prepared)
    deadline = time.monotonic() + 60
    while child.is_running() and time.monotonic() < deadline:
        if is_ready(address):
            return child, address
        time.sleep(0.1)
    child.stop(signal.SIGKILL)
    raise StartupFailed(f"Postgres did not answer on 127.0.0.1:{port}; the end of {child.log}:\n{child.tail()}")


def stop(child: ChildProcess) -> None:
    """End the server cleanly."""
    child.stop()


def url(folder: Path, port: int) -> str:
    """The libpq URL of the server whose files are in ``folder``."""
    return f"postgresql://postgres:{_password(folder)}@127.0.0.1:{port}/postgres"


def is_ready(url: str) -> bool:
    """Whether the server lets us in."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
        return True
    return False


def _password(folder: Path) -> str:
    path = folder / "password"
    if not path.exists():
        replace_file(path, secrets.token_urlsafe(24))
    return path.read_text()


def _initdb(programs: Path, folder: Path, password: str, user: str | None) -> None:
    """Create the cluster aside and rename it: an interrupted one is no cluster, and the next start begins again."""
    aside = folder / "data.new"
    shutil.rmtree(aside, ignore_errors=True)
    make_private_folder(aside)
    entry = None if user is None else pwd.getpwnam(user)
    # A file without a name: the server's user could open none in a folder that is closed to it.
    with tempfile.TemporaryFile() as pwfile:
        pwfile.write(password.encode())
        pwfile.seek(0)
        os.fchmod(pwfile.fileno(), FILE_MODE)  # the umask may have left it no mode at all
        if entry is not None:
            os.chown(aside, entry.pw_uid, entry.pw_gid)
            os.fchown(pwfile.fileno(), entry.pw_uid, entry.pw_gid)
        done = subprocess.run(
            [
                str(programs / "initdb"),
                *("-D", _place(aside, user), "-U", "postgres", "--encoding=UTF8", "--locale=C"),
                *("--auth=scram-sha-256", "--pwfile=/dev/stdin", "--no-instructions"),
            ],
            stdin=pwfile,
            capture_output=True,
            text=True,
            check=False,
            cwd=aside,
            umask=0o077,
            user=None if entry is None else entry.pw_uid,
            group=None if entry is None else entry.pw_gid,
            extra_groups=None if entry is None else [],
        )
    if done.returncode:
        raise StartupFailed(f"Postgres could not create its cluster in {folder}: {done.stderr[-2000:]}")
    aside.replace(folder / "data")


def _place(data: Path, user: str | None) -> str:
    """Return how the server names its data folder, in which it starts.

    Another user than ours may have no way there through the folders above, and none of them is opened for it: it
    stays in the folder where it was put.
    """
    return str(data.absolute()) if user is None or not _WORKING_DIR_LINK.exists() else str(_WORKING_DIR_LINK)


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
