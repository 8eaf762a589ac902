"""Manage the data folder of a stack: its lock, its ports and its secrets; the supervisor and commands use it."""

import fcntl
import json
import os
import random
import secrets
import socket
from pathlib import Path
from typing import IO, Any, Final

from pipeline.errors import PermanentError
from pipeline.runtime.private_files import make_private_folder, narrow_folder, open_private, replace_file

# Below the range that Linux uses for outgoing connections (32768 and up), which could take a port that was free.
_PORT_RANGE: Final = range(20_000, 32_000)


class ResourceInUse(PermanentError):
    """The data folder or a port is in use."""


class DataDir:
    """The data folder of one stack; :meth:`lock` reserves it for this process."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._lock: IO[str] | None = None

    def lock(self) -> None:
        """Lock the folder; the kernel unlocks it when the process ends, in whatever way.

        Raise ResourceInUse, which names the process that holds the lock.
        """
        make_folder(self.root)
        _narrow(self.root)
        # The file stays open after this call, because closing it would release the lock.
        lock = os.fdopen(open_private(self.root / "lock", os.O_RDWR | os.O_APPEND), "a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise ResourceInUse(
                f"{self.root}: already in use by process {holder}; stop that stack first (Ctrl-C where it runs), "
                "or give this one a folder of its own in MAILFOLD_DATA_DIR"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def unlock(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def log_path(self, name: str) -> Path:
        """Return the file of a child's output."""
        return self.root / "logs" / f"{name}.log"

    def ports(self) -> dict[str, int]:
        """Return the ports chosen so far, by server."""
        path = self.root / "ports.json"
        ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        return ports

    def port(self, name: str) -> int:
        """Return the port of an embedded server, the same at every start; choose one at the first.

        Raise ResourceInUse where another program listens on it now.
        """
        path, ports = self.root / "ports.json", self.ports()
        if name not in ports:
            ports[name] = _choose_port(excluded=set(ports.values()))
            replace_file(path, json.dumps(ports, indent=1))
        elif is_port_taken("127.0.0.1", ports[name]):
            raise ResourceInUse(
                f"{name}'s port {ports[name]} is taken by another program; stop that, "
                f"or remove {path} to choose new ports"
            )
        return ports[name]

    def secret(self, name: str, make: Any = lambda: secrets.token_urlsafe(48)) -> str:
        """Return a stored secret; where there is none, make and store one. Only the folder's owner can read it."""
        return self.read_secret(name) or self.write_secret(name, make())

    def read_secret(self, name: str) -> str:
        """Return a stored secret, else an empty string."""
        path = self.root / name
        return path.read_text().strip() if path.exists() else ""

    def write_secret(self, name: str, value: str) -> str:
        """Store a secret and return it."""
        replace_file(self.root / name, value + "\n")
        return value


def make_folder(path: Path) -> None:
    """Create a folder that only its owner can open. Raise ResourceInUse where that is not possible."""
    try:
        make_private_folder(path)
    except (FileExistsError, NotADirectoryError):
        raise ResourceInUse(f"{path}: not a folder; set MAILFOLD_DATA_DIR to one") from None
    except PermissionError:
        raise ResourceInUse(f"{path}: may not be written here; set MAILFOLD_DATA_DIR to a folder of your own") from None


def _narrow(root: Path) -> None:
    """Set the mode of the folder and of ours in it to 0700, unless the folder may also serve another purpose."""
    if not _is_only_data_dir(root):
        return
    narrow_folder(root)
    for entry in os.scandir(root):
        if entry.is_dir(follow_symlinks=False) and entry.stat().st_uid == os.geteuid():
            narrow_folder(Path(entry))


def _is_only_data_dir(path: Path) -> bool:
    """Return whether the folder is our user's, and empty or used by a stack before; `/tmp`, say, must keep its mode."""
    if path.stat().st_uid != os.geteuid():
        return False
    names = {entry.name for entry in os.scandir(path)}
    return not names or "lock" in names


def is_port_taken(host: str, port: int) -> bool:
    """Return whether a program listens there; closed connections in TIME_WAIT don't count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
        return False


def find_free_port() -> int:
    """Return a TCP port on which no program listens at this moment."""
    return _choose_port(excluded=set())


def _choose_port(excluded: set[int]) -> int:
    # At random, so that stacks that start at the same moment seldom choose the same one.
    for port in random.sample(_PORT_RANGE, len(_PORT_RANGE)):
        if port not in excluded and not is_port_taken("127.0.0.1", port):
            return port
    raise ResourceInUse("no free TCP port between 20000 and 32000 on 127.0.0.1")
