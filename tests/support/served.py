"""Run a gateway as a process, with a tenant and a key, for tests that call it without an event loop."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import admin
from pipeline.gateway.server import PORT_FILE
from pipeline.runtime.environment import environment_of
from pipeline.runtime.postgres.database import open_database
from pipeline.settings import Settings
from tests.support.command import clean_environment

DEADLINE_S = 30.0


@dataclass(frozen=True)
class Served:
    """A running gateway."""

    url: str
    key: str
    log: Path

    def quiet(self) -> bool:
        """Return whether it logged no traceback."""
        return "Traceback" not in self.log.read_text()


@contextlib.contextmanager
def served(settings: Settings, **changed: object) -> Iterator[Served]:
    """Run a gateway on a free port until the end of the block; ``changed`` are other settings."""
    own = settings.model_copy(update={"port": 0, **changed})
    key = asyncio.run(_add_key(own))
    log, port_file = own.data_dir / "gateway.log", own.data_dir / PORT_FILE
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "gateway"],
            env=clean_environment(**environment_of(own)),
            stdout=out,
            stderr=out,
        )
        try:
            yield Served(f"http://127.0.0.1:{_wait_for_port(port_file, process, log)}", key, log)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


async def _add_key(settings: Settings) -> str:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        return await admin.add_key(pool, "acme")


def _wait_for_port(port_file: Path, process: "subprocess.Popen[bytes]", log: Path) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while not (port_file.exists() and port_file.read_text().endswith("\n")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return int(port_file.read_text())
