"""The stack as a class: embedded servers that keep their data through kill -9, on the same ports."""

import asyncio
import re
import signal
import socket
from collections.abc import Awaitable
from pathlib import Path

import aiohttp
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import SecretStr

from pipeline.devstack.servers import kafka, postgres
from pipeline.devstack.servers.data_dir import ResourceInUse, find_free_port
from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.supervisor import Stack
from pipeline.errors import InvalidSettings, TopicMismatch
from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings
from tests.support.command import gone
from tests.support.seeing import until

RECORDS = [b"%d" % number for number in range(200)]


def settings_for(folder: Path) -> Settings:
    return Settings(
        kafka_bootstrap="",
        database_url=SecretStr(""),
        data_dir=folder,
        partitions=2,
        port=0,
        sandbox_smtp_port=0,
        sandbox_http_port=0,
        ops_host="",
    )


@pytest.mark.ci
async def test_what_kafka_and_postgres_confirmed_is_there_after_kill_9_and_after_a_restart(stack_folder: Path) -> None:
    settings = settings_for(stack_folder)
    async with Stack(settings, roles=[]) as stack:
        await _append(stack.settings)
        await _insert(stack.settings)
        before = dict(stack.pids)
        for name in ("kafka", "postgres"):
            assert await stack.send_signal(name, signal.SIGKILL) == before[name]
        for name in ("kafka", "postgres"):
            await stack.wait_for_restarts(name, 1)
        assert stack.restart_counts == {"kafka": 1, "postgres": 1}
        await _answers_again(stack.settings)
        assert await _read(stack.settings) == RECORDS
        ports = (stack.settings.kafka_bootstrap, stack.settings.database_url)
        pids = [*before.values(), *stack.pids.values()]
    await gone(pids)

    async with Stack(settings, roles=[]) as stack:
        assert (stack.settings.kafka_bootstrap, stack.settings.database_url) == ports
        await topic_admin.check(stack.settings)
        assert await _read(stack.settings) == RECORDS
        async with await psycopg.AsyncConnection.connect(stack.settings.database_url.get_secret_value()) as connection:
            row = await (await connection.execute("select tenant from admin.tenants")).fetchone()
        assert row == ("kept",)


async def test_the_servers_that_the_settings_name_are_used_and_none_is_started(settings: Settings) -> None:
    async with Stack(settings, roles=[]) as stack:
        assert stack.pids == {}
        assert stack.settings.kafka_bootstrap == settings.kafka_bootstrap


async def test_a_taken_port_a_short_secret_and_a_wrong_topic_are_said_before_a_role_starts(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = settings.model_copy(update={"port": other.getsockname()[1]})
        with pytest.raises(
            ResourceInUse, match=r"MAILFOLD_PORT: 127\.0\.0\.1:\d+ is taken by another program; stop that, or set"
        ):
            await _enter(Stack(taken, roles=["gateway"]))
    with pytest.raises(InvalidSettings, match="MAILFOLD_SECRET: at least 32 characters"):
        await _enter(Stack(settings.model_copy(update={"secret": SecretStr("short")}), roles=[]))
    with pytest.raises(TopicMismatch, match="MAILFOLD_PARTITIONS says 5"):
        await _enter(Stack(settings.model_copy(update={"partitions": 5}), roles=[]))
    # A start that failed gave the folder back.
    await _enter(Stack(settings, roles=[]))


async def test_a_role_gets_its_own_environment_and_comes_back_when_killed(settings: Settings) -> None:
    given = settings.model_copy(update={"sandbox_smtp_port": find_free_port(), "sandbox_http_port": find_free_port()})
    lines: list[str] = []
    env = {"sandbox": {"MAILFOLD_SANDBOX_PROVIDER": "elsewhere"}}
    async with Stack(given, roles=["sandbox"], role_env=env, tell=lines.append) as stack:
        assert "webhooks/elsewhere" in stack.data_dir.log_path("sandbox").read_text()
        assert PidFiles(stack.data_dir.root / "pids").running_pids() == stack.pids
        await stack.send_signal("sandbox", signal.SIGKILL)
        await stack.wait_for_restarts("sandbox", 1)
    assert any("sandbox was killed by SIGKILL; it starts again in 0.2 s" in line for line in lines)


async def test_second_processes_of_a_role_share_its_work(settings: Settings) -> None:
    """Each has a port and a folder of its own; together they have all partitions."""
    given = settings.model_copy(update={"ops_host": "127.0.0.1", "ops_port_worker": find_free_port()})
    async with Stack(given, roles=["worker", "worker-2"]) as stack, aiohttp.ClientSession() as http:
        ports = (stack.settings.ops_port_worker, stack.data_dir.ports()["worker-2"])

        async def share() -> list[int]:
            return [await _partitions_of(http, port) for port in ports]

        await until(lambda: is_shared(share(), given.partitions), 60)
        assert {path.name for path in stack.data_dir.root.iterdir()} >= {"worker", "worker-2"}


async def is_shared(shares: Awaitable[list[int]], partitions: int) -> bool:
    counts = await shares
    return sum(counts) == partitions and all(counts)


async def _partitions_of(http: aiohttp.ClientSession, port: int) -> int:
    """Return how many partitions of the facts a worker has, by its metrics."""
    try:
        async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    except aiohttp.ClientError:
        return 0
    return sum(int(float(count)) for count in re.findall(r"^mailfold_partitions (\S+)", text, re.MULTILINE))


async def _enter(stack: Stack) -> None:
    async with stack:
        pass


async def _answers_again(settings: Settings) -> None:
    async with asyncio.timeout(60):
        while not kafka.is_ready(int(settings.kafka_bootstrap.rpartition(":")[2])):
            await asyncio.sleep(0.1)
        while not postgres.is_ready(settings.database_url.get_secret_value()):
            await asyncio.sleep(0.1)


async def _append(settings: Settings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        for value in RECORDS:
            await producer.send_and_wait(settings.topic("dead-letters"), value)
    finally:
        await producer.stop()


async def _read(settings: Settings) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        settings.topic("dead-letters"), bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        return [(await consumer.getone()).value for _ in RECORDS]
    finally:
        await consumer.stop()


async def _insert(settings: Settings) -> None:
    async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as connection:
        await connection.execute("insert into admin.tenants (tenant) values ('kept')")
