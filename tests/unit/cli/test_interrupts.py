"""Test that Ctrl-C and SIGTERM end every command that waits for a server; only roles finish their work first."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import context

SECRET = "0123456789abcdef0123456789abcdef"
HASH = "0" * 64
COMMANDS = (
    ("trace", "a"),
    ("rebuild", "--check"),
    ("renormalize", "--provider", "a", "--since", "1h"),
    ("dead", "list"),
    ("lanes", "list"),
    ("suppressions", "show", HASH),
    ("migrate",),
    ("topics", "check"),
    ("inbound", "maildir", "."),
)


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Yield a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        server.settimeout(60)
        yield server


def start_command(server: socket.socket, folder: Path, command: tuple[str, ...]) -> subprocess.Popen[str]:
    port = server.getsockname()[1]
    (folder / "new").mkdir()
    (folder / "cur").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path.cwd()),
        "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{port}/postgres",
        "KAFKA_BOOTSTRAP": f"127.0.0.1:{port}",
        "MAILFOLD_SECRET": SECRET,
        "MAILFOLD_DATA_DIR": str(folder / "data"),
    }
    arguments = [sys.executable, "-m", "pipeline", *command]
    return subprocess.Popen(arguments, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_interrupted_command_exits_130_without_traceback(
    silent_server: socket.socket, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with start_command(silent_server, tmp_path, command) as process, silent_server.accept()[0]:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


def test_terminated_command_exits_143_without_traceback(silent_server: socket.socket, tmp_path: Path) -> None:
    with start_command(silent_server, tmp_path, ("status",)) as process, silent_server.accept()[0]:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors


def test_only_long_running_commands_start_their_own_event_loop() -> None:
    folder = Path(context.__file__).parent
    starters = {path.name for path in folder.glob("*.py") if re.search(r"asyncio\.(run|Runner)\(", path.read_text())}
    # `admin` resolves a host name; the others run until a signal stops them.
    assert starters == {"context.py", "admin.py", "dev.py", "roles.py", "up.py"}
