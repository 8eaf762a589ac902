"""Run a Postgres of a test's own, which can be stopped and started again, copied to a standby and promoted."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
from pydantic import SecretStr

from pipeline.devstack.servers import postgres
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.postgres_programs import find_programs
from pipeline.devstack.servers.process import ChildProcess, spawn
from pipeline.runtime.postgres.schema import migrate_database
from pipeline.runtime.private_files import make_private_folder
from pipeline.settings import Settings
from tests.support.seeing import until

START_TIMEOUT_S = 60.0
_REPLICATION_OPTIONS = ("-c", "wal_level=replica", "-c", "max_wal_senders=4", "-c", "hot_standby=on")


class PostgresServer:
    """A server with a port of its own, which it keeps when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = find_free_port()
        self.url = ""
        self._child: ChildProcess | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        program, self.url = postgres.prepare_program(self.folder, self.port)
        self._child = spawn(replace(program, argv=(*program.argv, *_REPLICATION_OPTIONS)))
        await until(lambda: asyncio.to_thread(postgres.is_ready, self.url), START_TIMEOUT_S)

    async def stop(self, number: int = signal.SIGINT) -> None:
        """End it by SIGINT, a clean shutdown that ends all sessions, or by another signal: SIGQUIT ends it at once."""
        assert self._child is not None
        await asyncio.to_thread(self._child.stop, number, 20)

    def make_standby(self, folder: Path) -> "PostgresServer":
        """Return a server in ``folder`` with a copy of this one's data, which follows this one once it is started."""
        standby = PostgresServer(folder)
        make_private_folder(folder)
        shutil.copy(self.folder / "password", folder / "password")
        program, data = find_programs() / "pg_basebackup", folder / "data"
        subprocess.run(
            [program, "-D", data, "-d", self.url, "-R", "-X", "stream", "-c", "fast"], check=True, capture_output=True
        )
        _give_to_owner_of(self.folder / "data", data)
        return standby

    def promote(self) -> None:
        """Make a standby accept writes."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("select pg_promote()")


def _give_to_owner_of(pattern: Path, tree: Path) -> None:
    owner = pattern.stat()
    for path in (tree, *tree.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


@contextlib.asynccontextmanager
async def postgres_server(folder: Path) -> AsyncIterator[PostgresServer]:
    """Run a server with a migrated database, and its files in ``folder``, until the end of the block."""
    server = PostgresServer(folder)
    await server.start()
    try:
        await migrate_database(Settings(database_url=SecretStr(server.url)))
        yield server
    finally:
        await server.stop(signal.SIGQUIT)


@contextlib.asynccontextmanager
async def standby_of(primary: PostgresServer, folder: Path) -> AsyncIterator[PostgresServer]:
    """Run a standby of a server until the end of the block."""
    standby = await asyncio.to_thread(primary.make_standby, folder)
    await standby.start()
    try:
        yield standby
    finally:
        await standby.stop(signal.SIGQUIT)
