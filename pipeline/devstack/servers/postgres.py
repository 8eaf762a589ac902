"""Run a real PostgreSQL from a wheel's binaries on a loopback port; the supervisor and the tests start it."""

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
from pydantic import SecretStr

from pipeline.devstack.servers.postgres_programs import find_programs, public_programs, server_user
from pipeline.devstack.servers.process import ChildProcess, Program, StartupFailed, spawn
from pipeline.runtime.private_files import FILE_MODE, make_private_folder, narrow_folder, replace_file

_WORKING_DIR_LINK: Final = Path("/proc/self/cwd")
"""A link to a process's working folder, which needs no access to the folders above it (Linux)."""

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
    """Create the cluster of a server on 127.0.0.1:port in ``folder``; return the program to spawn and its libpq URL.

    ``tell`` is called with lines of progress. Raise StartupFailed.
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
    _remove_stale_pid_file(data)
    options = [part for name, value in _SERVER_SETTINGS.items() for part in ("-c", f"{name}={value}")]
    argv = (str(programs / "postgres"), "-D", _data_argument(data, user), "-p", str(port), *options)
    # SIGINT asks for a fast shutdown: the server closes connections and writes a checkpoint.
    fast = signal.SIGINT
    server = Program(
        "postgres", argv, folder / "postgres.log", {}, fast, orphan_signal=fast, user=user, working_dir=data
    )
    return server, url(folder, port)


def start(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> tuple[ChildProcess, str]:
    """Start a server on 127.0.0.1:port with its data in ``folder``; return it and its libpq URL once it answers.

    Raise StartupFailed with the end of its log.
    """
    program, address = prepare_program(folder, port, tell=tell)
    child = spawn(program)
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
    """Return the libpq URL of the server whose files are in ``folder``."""
    return f"postgresql://postgres:{_password(folder)}@127.0.0.1:{port}/postgres"


def settings_of(url: str) -> dict[str, SecretStr]:
    """Return the settings that lead to an embedded server, which has neither a pooler nor a standby."""
    return {
        "database_url": SecretStr(url),
        "database_session_url": SecretStr(""),
        "database_read_url": SecretStr(""),
    }


def is_ready(url: str) -> bool:
    """Return whether the server accepts our connection."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
        return True
    return False


def _password(folder: Path) -> str:
    path = folder / "password"
    if not path.exists():
        replace_file(path, secrets.token_urlsafe(24))
    return path.read_text()


def _initdb(programs: Path, folder: Path, password: str, user: str | None) -> None:
    """Create the cluster in a temporary folder and rename it; after an interruption the next start creates it again."""
    temporary = folder / "data.new"
    shutil.rmtree(temporary, ignore_errors=True)
    make_private_folder(temporary)
    entry = None if user is None else pwd.getpwnam(user)
    # The password is passed as an open file, because the server's user may not reach a file in our folders.
    with tempfile.TemporaryFile() as pwfile:
        pwfile.write(password.encode())
        pwfile.seek(0)
        os.fchmod(pwfile.fileno(), FILE_MODE)  # the umask may have left mode 000
        if entry is not None:
            os.chown(temporary, entry.pw_uid, entry.pw_gid)
            os.fchown(pwfile.fileno(), entry.pw_uid, entry.pw_gid)
        completed = subprocess.run(
            [
                str(programs / "initdb"),
                *("-D", _data_argument(temporary, user), "-U", "postgres", "--encoding=UTF8", "--locale=C"),
                *("--auth=scram-sha-256", "--pwfile=/dev/stdin", "--no-instructions"),
            ],
            stdin=pwfile,
            capture_output=True,
            text=True,
            check=False,
            cwd=temporary,
            umask=0o077,
            user=None if entry is None else entry.pw_uid,
            group=None if entry is None else entry.pw_gid,
            extra_groups=None if entry is None else [],
        )
    if completed.returncode:
        raise StartupFailed(f"Postgres could not create its cluster in {folder}: {completed.stderr[-2000:]}")
    temporary.replace(folder / "data")


def _data_argument(data: Path, user: str | None) -> str:
    """Return the path by which the server opens its data folder, which is also its working folder.

    Another user than ours may have no access to the folders above, and they are not opened for it: it uses the link to
    its working folder.
    """
    return str(data.absolute()) if user is None or not _WORKING_DIR_LINK.exists() else str(_WORKING_DIR_LINK)


def _remove_stale_pid_file(data: Path) -> None:
    """Remove the pid file that kill -9 leaves, with which the server may refuse to start, unless its process runs."""
    path = data / "postmaster.pid"
    if not path.exists():
        return
    import psutil  # noqa: PLC0415  only needed after a kill

    lines = path.read_text().splitlines()
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else 0
    try:
        is_running = pid > 0 and "postgres" in psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        is_running = False
    if not is_running:
        path.unlink()
