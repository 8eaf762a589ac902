"""Roles that start while Kafka is away wait for it, say so, and end at once on SIGTERM."""

import asyncio
import contextlib
import functools
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.runtime.environment import environment_of
from pipeline.settings import Settings
from tests.support.command import clean_environment
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import until

ROLES = ("gateway", "worker", "dispatch", "project", "emit")


class StartedRole:
    """A process of a role and its probes."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    async def status(self, path: str) -> int:
        """Return the status of a probe; 0 where nothing answers yet."""
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=self.url, timeout=10) as http:
                return (await http.get(path)).status_code
        return 0

    async def end(self) -> int:
        """Send SIGTERM and return the exit code. Raise TimeoutError after the ten seconds that a role may take."""
        self.process.terminate()
        async with asyncio.timeout(10):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def started(settings: Settings, role: str) -> AsyncIterator[StartedRole]:
    port = find_free_port()
    own = settings.model_copy(
        update={"ops_host": "127.0.0.1", f"ops_port_{role}": port, "port": 0, "data_dir": settings.data_dir / role}
    )
    with (settings.data_dir / f"{role}.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pipeline", role),
            env=clean_environment(**environment_of(own)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield StartedRole(process, port)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def logged(settings: Settings, role: str) -> str:
    return (settings.data_dir / f"{role}.log").read_text()


@pytest.mark.timeout(300)
async def test_every_role_waits_for_kafka_and_heals_by_itself(settings: Settings) -> None:
    async with kafka_proxy(settings.kafka_bootstrap) as proxy, contextlib.AsyncExitStack() as stack:
        proxy.away()
        own = settings.model_copy(update={"kafka_bootstrap": proxy.bootstrap})
        roles = {role: await stack.enter_async_context(started(own, role)) for role in ROLES}
        for name, role in roles.items():
            await until(functools.partial(is_waiting, own, name), 60)
            assert (await role.status("/healthz"), await role.status("/readyz")) == (200, 503)
        proxy.back()
        for role in roles.values():
            await until(functools.partial(is_ready, role), 60)
        for role in roles.values():
            assert await role.end() == 0


def is_waiting(settings: Settings, role: str) -> bool:
    return "Kafka unavailable, waiting" in logged(settings, role)


async def is_ready(role: StartedRole) -> bool:
    assert role.process.returncode is None, "it ended instead of waiting"
    return await role.status("/readyz") == 200


@pytest.mark.timeout(300)
async def test_role_that_waits_for_kafka_ends_on_sigterm(settings: Settings) -> None:
    """In the middle of an attempt, too, which may take half a minute."""
    async with kafka_proxy(settings.kafka_bootstrap) as proxy, contextlib.AsyncExitStack() as stack:
        proxy.away()
        own = settings.model_copy(update={"kafka_bootstrap": proxy.bootstrap})
        roles = [await stack.enter_async_context(started(own, role)) for role in ("dispatch", "worker")]
        for role in roles:
            await until(functools.partial(role.status, "/healthz"), 60)
        assert [await role.end() for role in roles] == [0, 0]
        assert ["Traceback" in logged(own, name) for name in ("dispatch", "worker")] == [False, False]
