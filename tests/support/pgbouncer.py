"""Run a real PgBouncer in transaction mode before a server; Debian's package provides the program."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

import pytest

from pipeline.devstack.servers import postgres
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.process import Program, spawn
from tests.support.seeing import until

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
requires_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


@contextlib.asynccontextmanager
async def pgbouncer(url: str, folder: Path, connect_query: str = "") -> AsyncIterator[str]:
    """Run PgBouncer before the server of ``url`` until the end of the block; yield the URL that leads through it."""
    port, server = find_free_port(), urlsplit(url)
    config = await asyncio.to_thread(_configure, server, port, folder, connect_query)
    child = spawn(Program("pgbouncer", (str(PROGRAM), str(config)), folder / "pgbouncer.log"))
    through = urlunsplit(server._replace(netloc=f"{server.username}:{server.password}@127.0.0.1:{port}"))
    try:
        await until(lambda: asyncio.to_thread(postgres.is_ready, through), 20)
        yield through
    finally:
        child.stop()


def _configure(server: SplitResult, port: int, folder: Path, connect_query: str) -> Path:
    """Write the configuration of a PgBouncer on this port before a server, and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    users, config = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"{server.username}" "{server.password}"\n')
    quoted = connect_query.replace("'", "''")
    database = f"host={server.hostname} port={server.port}" + (f" connect_query='{quoted}'" if connect_query else "")
    config.write_text(
        f"[databases]\n* = {database}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nuser = nobody\n"
        f"auth_type = plain\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = 3\n"
    )
    return config
