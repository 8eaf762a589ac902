"""The data folder of one machine's stack: who uses it, its ports, its secrets, its children's process ids."""

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

# Below the range that Linux gives to outgoing connections (32768 and up): a port that is free stays free.
_PORT_RANGE: Final = range(20_000, 32_000)


class ResourceInUse(PermanentError):
    """The data folder or a port is in use."""


class DataDir:
    """One stack's folder; :meth:`lock` makes it ours until the process ends."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._lock: IO[str] | None = None

    def lock(self) -> None:
        """Take the folder. The kernel frees it with the process, however that ends.

        Raises InUse naming the process that has it.
        """
        make_folder(self.root)
        _narrow(self.root)
        # It outlives this call on purpose: closing it is what unlocks.
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
        """Give the folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def log_path(self, name: str) -> Path:
        """Where a child's output goes."""
        return self.root / "logs" / f"{name}.log"

    def ports(self) -> dict[str, int]:
        """The ports taken so far, by server."""
        path = self.root / "ports.json"
        ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        return ports

    def port(self, name: str) -> int:
        """The port of an embedded server: the same at every start.

        Raises InUse where somebody else listens on it now.
        """
        path, ports = self.root / "ports.json", self.ports()
        if name not in ports:
            ports[name] = _unused(taken=set(ports.values()))
            replace_file(path, json.dumps(ports, indent=1))
        elif is_port_taken("127.0.0.1", ports[name]):
            raise ResourceInUse(
                f"{name}'s port {ports[name]} is taken by another program; stop that, "
                f"or remove {path} to take new ports"
            )
        return ports[name]

    def secret(self, name: str, make: Any = lambda: secrets.token_urlsafe(48)) -> str:
        """A secret that is made once; only the folder's owner can read it."""
        return self.read_secret(name) or self.write_secret(name, make())

    def read_secret(self, name: str) -> str:
        """A secret kept earlier, else an empty string."""
        path = self.root / name
        return path.read_text().strip() if path.exists() else ""

    def write_secret(self, name: str, value: str) -> str:
        """Keep a secret; it is returned."""
        replace_file(self.root / name, value + "\n")
        return value


def make_folder(path: Path) -> None:
    """Create a folder that only its owner can open. Raises InUse where something else is in its place."""
    try:
        make_private_folder(path)
    except (FileExistsError, NotADirectoryError):
        raise ResourceInUse(f"{path}: not a folder; set MAILFOLD_DATA_DIR to one") from None
    except PermissionError:
        raise ResourceInUse(f"{path}: may not be written here; set MAILFOLD_DATA_DIR to a folder of your own") from None


def _narrow(root: Path) -> None:
    """Close what an earlier version or a umask left open, unless others use the folder, too."""
    if not _is_data_folder(root):
        return
    narrow_folder(root)
    for entry in os.scandir(root):
        if entry.is_dir(follow_symlinks=False) and entry.stat().st_uid == os.geteuid():
            narrow_folder(Path(entry))


def _is_data_folder(path: Path) -> bool:
    """Whether the folder is for us alone: our own, and empty or used by a stack before. `/tmp` must keep its mode."""
    if path.stat().st_uid != os.geteuid():
        return False
    names = {entry.name for entry in os.scandir(path)}
    return not names or "lock" in names


def is_port_taken(host: str, port: int) -> bool:
    """Whether somebody listens there. Closed connections that linger (TIME_WAIT) don't count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
        return False


def find_free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    return _unused(taken=set())


def _unused(taken: set[int]) -> int:
    # At random, so that stacks that start at the same moment don't race for the same one.
    for port in random.sample(_PORT_RANGE, len(_PORT_RANGE)):
        if port not in taken and not is_port_taken("127.0.0.1", port):
            return port
    raise ResourceInUse("no free TCP port between 20000 and 32000 on 127.0.0.1")
