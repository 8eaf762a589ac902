"""The environment of a stage: new topics and tables on the servers of the bench, a tenant, and roles to start."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import psycopg
from aiohttp import web
from psycopg import sql
from pydantic import SecretStr

from pipeline import admin
from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.process import ChildProcess, Program, spawn
from pipeline.runtime.environment import environment_of
from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.postgres.schema import migrate_database
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings

TENANT, BRAND = "bench", "1"


@dataclass(frozen=True)
class Size:
    """Amounts per stage: enough to outweigh start-up, and little enough for 2 cores."""

    accept: int = 10_000
    dispatch: int = 3_000
    fold_keys: int = 20_000
    webhooks: int = 300
    project: int = 5_000
    whole: int = 3_000
    hits: int = 50_000
    probes: int = 300
    within: float = 180.0


QUICK = Size(accept=500, dispatch=50, fold_keys=200, webhooks=5, project=50, whole=50, hits=500, probes=5, within=90.0)
"""Amounts of a smoke run, which shows that everything works but measures nothing."""


@dataclass(frozen=True)
class World:
    """The topics, database and tenant of one stage."""

    settings: Settings
    key: str
    size: Size

    @property
    def gateway(self) -> str:
        """Return the origin of the gateway."""
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def sandbox(self) -> str:
        """Return the origin of the sandbox's API."""
        return f"http://127.0.0.1:{self.settings.sandbox_http_port}"

    @contextlib.asynccontextmanager
    async def roles(self, *names: str) -> AsyncIterator[dict[str, ChildProcess]]:
        """Run these roles, and wait until the gateway and the sandbox answer."""
        children = {name: self._spawn(name) for name in names}
        try:
            for name, url in (("gateway", f"{self.gateway}/healthz"), ("sandbox", f"{self.sandbox}/healthz")):
                if name in children:
                    await answers(url, children[name])
            yield children
        except TimeoutError as error:
            tails = "\n".join(f"{name}:\n{child.tail()}" for name, child in children.items())
            raise RuntimeError(f"not done in time; the ends of the logs:\n{tails}") from error
        finally:
            for child in children.values():
                await child.stop_async(8.0)

    def _spawn(self, name: str) -> ChildProcess:
        env = {**environment_of(self.settings), "MALLOC_ARENA_MAX": "2"}
        log = self.settings.data_dir / "logs" / f"{self.settings.topic_prefix}{name}.log"
        return spawn(Program(name, (sys.executable, "-m", "pipeline", name), log, env))


async def answers(url: str, child: ChildProcess) -> None:
    """Wait until ``url`` answers. Raises RuntimeError with the end of the log of ``child`` if it does not."""
    async with aiohttp.ClientSession() as http:
        for _ in range(600):
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            if not child.is_running():
                break
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} does not answer:\n{child.tail()}")


def server_settings(folder: Path) -> Settings:
    """Return the settings of a stack that has embedded servers only, with their data in ``folder``."""
    return Settings(
        kafka_bootstrap="",
        database_url=SecretStr(""),
        secret=SecretStr(""),
        data_dir=folder,
        topic_prefix="",
        partitions=4,
    )


@contextlib.asynccontextmanager
async def world(servers: Settings, name: str, size: Size, destination: str = "") -> AsyncIterator[World]:
    """Create new topics and a new database for one stage."""
    settings = servers.model_copy(
        update={
            "topic_prefix": f"{name}-",
            "database_url": await _database(servers, name),
            "port": (port := find_free_port()),
            "public_url": f"http://127.0.0.1:{port}",
            "sandbox_gateway": f"http://127.0.0.1:{port}",
            "sandbox_smtp_port": find_free_port(),
            "sandbox_http_port": find_free_port(),
            "sandbox_pace": 0.0,
            "allow_private_destinations": True,
            "log_level": "WARNING",
            "data_dir": servers.data_dir / name,
        }
    )
    await topic_admin.create(settings)
    await migrate_database(settings)
    secret = secret_ring(settings)
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant(TENANT))
        key = await admin.add_key(pool, TENANT)
        provider = admin.Provider(
            "sandbox",
            "127.0.0.1",
            settings.sandbox_smtp_port,
            kind="sandbox",
            webhook_keys=(public_key(settings.data_dir),),
        )
        await admin.add_provider(pool, provider, secret)
        await admin.add_brand(pool, admin.Brand(TENANT, BRAND, "sandbox"))
        if destination:
            await admin.add_destination(pool, admin.Destination(TENANT, BRAND, destination, "bench-key"), secret)
    yield World(settings, key, size)


async def _database(servers: Settings, name: str) -> SecretStr:
    url, own = servers.database_url.get_secret_value(), f"{name}_{secrets.token_hex(4)}"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(sql.SQL("create database {}").format(sql.Identifier(own)))
    return SecretStr(urlunsplit(urlsplit(url)._replace(path=f"/{own}")))


@contextlib.asynccontextmanager
async def sink(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """Run a receiver of conversions that answers with ``handler``; yield its origin."""
    app = web.Application(client_max_size=64_000_000)
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
