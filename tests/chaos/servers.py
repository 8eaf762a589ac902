"""Kafka and Postgres for the scenarios, which can be killed, frozen, restarted or run out of disk space.

`pipeline.devstack.servers` starts them, because it starts the real, third-party servers; no check uses its code.
"""

import asyncio
import contextlib
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg

from pipeline.devstack.servers import kafka, postgres
from pipeline.devstack.servers.process import ChildProcess, spawn
from tests.chaos.proxy import KafkaProxy, proxy
from tests.support.kafka_cluster import BROKERS, KafkaCluster


def free_port() -> int:
    """Return a free port below 32768, because Linux uses those above for outgoing connections."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Servers:
    """One broker with a second listener behind a proxy, and one Postgres."""

    replicas = 1
    """Replicas of each record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = [free_port() for _ in range(4)]
        self._kafka: ChildProcess | None = None
        self._postgres: ChildProcess | None = None
        self.url = ""
        self.proxy = KafkaProxy("127.0.0.1", self._ports[2])

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def kafka(self) -> ChildProcess:
        assert self._kafka is not None
        return self._kafka

    @property
    def postgres(self) -> ChildProcess:
        assert self._postgres is not None
        return self._postgres

    async def ensure(self) -> None:
        """Make sure that both servers run and are not frozen, whatever a scenario did to them."""
        await self._ensure_kafka()
        if self._postgres is None or not self._postgres.is_running():
            self._start_postgres()
        self.thaw("postgres")
        await _until("Postgres answers", lambda: postgres.is_ready(self.url))

    async def _ensure_kafka(self) -> None:
        if self._kafka is None or not self._kafka.is_running():
            self._start_kafka()
        self.thaw("kafka")
        await _until("Kafka answers", lambda: kafka.is_ready(self._ports[0]))

    def _start_kafka(self) -> None:
        """Start Kafka. Must be called in the main thread, because the kernel stops it when the starting thread ends."""
        program = kafka.prepare_program(self.folder / "kafka", self._ports[0], self._ports[1])
        _second_listener(Path(program.argv[-1]), self._ports[2], self.proxy.port)
        self._kafka = spawn(program)

    def _start_postgres(self) -> None:
        program, self.url = postgres.prepare_program(self.folder / "postgres", self._ports[3])
        # A database that a kill takes back is a fault we want to see survived: the defaults stay, fsync included.
        self._postgres = spawn(replace(program, argv=(*program.argv, "-c", "max_connections=300")))

    def kill(self, which: str, number: int = signal.SIGKILL) -> None:
        """End a server at once: with SIGKILL, or with Postgres' immediate shutdown (SIGQUIT)."""
        child = self._of(which)
        if which == "postgres" and number == signal.SIGKILL:
            for process in _family(child.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        child.process.send_signal(number)
        child.process.wait(20)

    async def stop_cleanly(self, which: str) -> None:
        await self._of(which).stop_async(20)

    def freeze(self, which: str) -> None:
        for process in _family(self._of(which).pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self, which: str) -> None:
        for process in _family(self._of(which).pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def cut(self) -> int:
        """Terminate every other connection to Postgres and return their number."""
        with psycopg.connect(self.url, autocommit=True) as admin:
            rows = admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and backend_type = 'client backend'"
            ).fetchall()
        return len(rows)

    def database(self) -> str:
        """Create a database and return its URL."""
        name = f"chaos_{secrets.token_hex(6)}"
        with psycopg.connect(self.url, autocommit=True) as admin:
            admin.execute(f"create database {name}")  # type: ignore[arg-type,unused-ignore]  # a name of our making
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def _of(self, which: str) -> ChildProcess:
        return self.kafka if which == "kafka" else self.postgres

    async def close(self) -> None:
        for child in (self._kafka, self._postgres):
            if child is not None:
                await child.stop_async(8)


class ClusterServers(Servers):
    """Three brokers without a proxy, and one Postgres."""

    replicas = BROKERS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cluster = KafkaCluster(folder / "kafka", [free_port() for _ in range(2 * BROKERS)])

    @property
    def bootstrap(self) -> str:
        return self.cluster.bootstrap

    async def _ensure_kafka(self) -> None:
        self.cluster.thaw()
        self.cluster.start()
        await _until("three brokers answer", self.cluster.is_ready)

    async def close(self) -> None:
        await asyncio.to_thread(self.cluster.close)
        await super().close()


def _family(pid: int) -> list[psutil.Process]:
    """Return a server's process and its children, the parent first, so that once stopped it starts no new ones."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _second_listener(properties: Path, port: int, advertised: int) -> None:
    """Add a listener to the broker's settings that advertises the address of the proxy to its clients."""
    lines = []
    for line in properties.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        extra = {
            "listeners": f",HELD://127.0.0.1:{port}",
            "advertised.listeners": f",HELD://127.0.0.1:{advertised}",
            "listener.security.protocol.map": ",HELD:PLAINTEXT",
        }.get(name, "")
        lines.append(f"{name}={value}{extra}" if value else line)
    # Indexes are allocated at their full size: 20 MB a partition would be most of a small disk.
    lines.append("log.index.size.max.bytes=262144")
    properties.write_text("\n".join(lines) + "\n", encoding="utf-8")


async def _until(what: str, check: Callable[[], bool], patience: float = 90.0) -> None:
    deadline = time.monotonic() + patience
    while not await asyncio.to_thread(check):
        assert time.monotonic() < deadline, f"never came true within {patience:.0f} s: {what}"
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def servers(folder: Path, brokers: int = 1) -> AsyncIterator[Servers]:
    """Run servers with their files in ``folder`` until the block ends; ``brokers``: one or three."""
    made = Servers(folder) if brokers == 1 else ClusterServers(folder)
    async with proxy(made.proxy):
        try:
            await made.ensure()
            yield made
        finally:
            await made.close()


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a tmpfs of that size on ``folder``. Raises PermissionError if mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "mailfold-chaos", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PermissionError(f"a tmpfs can't be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
