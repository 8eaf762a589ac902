"""Provide Kafka and Postgres for a test session: the environment's, else in containers, else embedded.

Servers are ended by their own process id or container, and no file of theirs remains.
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
    """Yield a locked folder for this session; remove folders of killed sessions first."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_if_unlocked(old)
    session_folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    data_dir = DataDir(session_folder)
    data_dir.lock()
    try:
        yield session_folder
    finally:
        data_dir.unlock()
        shutil.rmtree(session_folder, ignore_errors=True)


def _remove_if_unlocked(old: Path) -> None:
    # A folder without a lock file belongs to a session that starts at this moment, and stays.
    with contextlib.suppress(OSError, ResourceInUse):
        with (old / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(old, ignore_errors=True)


def engine_answers() -> bool:
    """Return whether a container engine can be used."""
    import docker

    try:
        docker.from_env(timeout=3).ping()
    except Exception:  # after any error the engine can't be used
        return False
    return True


@contextlib.contextmanager
def kafka_server(where: Path) -> Iterator[str]:
    """Yield the bootstrap servers of a Kafka cluster."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        yield bootstrap
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
    """Yield a libpq URL whose user may create databases."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
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
    """Run the official image with the same port inside and outside, since clients use the address it advertises."""
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
    """Return the image's variables for one node that does not delay the first rebalance of a group."""
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
