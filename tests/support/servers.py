"""Kafka and Postgres for a test session: the environment's, else a container engine's, else embedded ones.

Everything is ended by its own process id or container, and nothing stays on disk.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.devstack.servers import kafka, postgres
from pipeline.devstack.servers.data_dir import DataDir, ResourceInUse, find_free_port

KAFKA_IMAGE = "apache/kafka:4.1.1"
POSTGRES_IMAGE = "postgres:18"
PREFIX = "mailfold-tests-"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder for this session, under a lock; what a killed session left behind is removed first."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_if_forgotten(old)
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    home = DataDir(made)
    home.lock()
    try:
        yield made
    finally:
        home.unlock()
        shutil.rmtree(made, ignore_errors=True)


def _remove_if_forgotten(old: Path) -> None:
    # Without a lock file it is a session's that begins at this moment.
    with contextlib.suppress(OSError, ResourceInUse):
        with (old / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(old, ignore_errors=True)


def engine_answers() -> bool:
    """Whether a container engine is there to be used."""
    import docker

    try:
        docker.from_env(timeout=3).ping()
    except Exception:  # whatever is wrong with it, it can't be used
        return False
    return True


@contextlib.contextmanager
def kafka_server(where: Path) -> Iterator[str]:
    """Bootstrap servers."""
    if given := os.environ.get("KAFKA_BOOTSTRAP"):
        yield given
    elif engine_answers():
        with _kafka_container() as bootstrap:
            yield bootstrap
    else:
        port = find_free_port()
        broker = kafka.start(where / "kafka", port)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            kafka.stop(broker)


@contextlib.contextmanager
def postgres_server(where: Path) -> Iterator[str]:
    """A libpq URL whose user may create databases."""
    if given := os.environ.get("DATABASE_URL"):
        yield given
    elif engine_answers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer(POSTGRES_IMAGE, driver=None) as container:
            yield container.get_connection_url()
    else:
        server, url = postgres.start(where / "postgres", find_free_port())
        try:
            yield url
        finally:
            postgres.stop(server)


@contextlib.contextmanager
def _kafka_container() -> Iterator[str]:
    """The official image, which must be told the address under which we reach it: the same port on both sides."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    port = find_free_port()
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(port, port)
    for name, value in kafka_environment(port).items():
        container = container.with_env(name, value)
    container.waiting_for(LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(90))
    with container:
        yield f"{container.get_container_host_ip()}:{port}"


def kafka_environment(port: int) -> dict[str, str]:
    """The image's variables: one node, no waiting for group members that never come."""
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENERS": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://localhost:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
