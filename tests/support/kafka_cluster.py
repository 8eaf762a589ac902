"""Run a cluster of three real brokers, each also a controller, on loopback; single ones are killed, frozen, restarted.

Every record has three replicas, and two must have it. Time-outs are Kafka's defaults, since their cost is measured.
"""

import contextlib
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.devstack.servers import kafka
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.process import ChildProcess, spawn

BROKERS = 3
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
_PROPERTIES = {
    "broker.session.timeout.ms": "9000",
    "broker.heartbeat.interval.ms": "2000",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # Several partitions, so that each broker coordinates some groups and transactions.
    "offsets.topic.num.partitions": "6",
    "transaction.state.log.num.partitions": "6",
    "log.flush.interval.ms": "10000",
    # Indexes are allocated at their full size: 20 MB a partition would be most of a small disk.
    "log.index.size.max.bytes": "262144",
}
_JVM_OPTIONS = ("-Xmx256m",)


class KafkaCluster:
    """Three brokers; their numbers are 1 to 3."""

    def __init__(self, folder: Path, ports: Sequence[int] = ()) -> None:
        """Set the cluster up, without starting it; ``ports``: three for clients, then three for controllers."""
        self._folder = folder
        self._ports = list(ports) or [find_free_port() for _ in range(2 * BROKERS)]
        self._cluster_id = kafka.cluster_id(uuid.uuid4().bytes)
        self._brokers: dict[int, ChildProcess] = {}

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._ports[:BROKERS])

    def pid(self, number: int) -> int:
        return self._brokers[number].pid

    def is_running(self, number: int) -> bool:
        return number in self._brokers and self._brokers[number].is_running()

    def start(self, *numbers: int) -> None:
        """Start these brokers, or all that don't run; don't wait until they answer.

        Must be called in the main thread, because the kernel stops them when the starting thread ends.
        """
        for number in numbers or range(1, BROKERS + 1):
            if not self.is_running(number):
                self._brokers[number] = spawn(
                    kafka.prepare_program(
                        self._folder / f"broker-{number}",
                        self._ports[number - 1],
                        self._ports[BROKERS + number - 1],
                        options=self._options(number),
                    )
                )

    def is_ready(self, *numbers: int) -> bool:
        """Return whether each of these brokers, or of all, accepts connections."""
        return all(kafka.is_ready(self._ports[number - 1]) for number in numbers or range(1, BROKERS + 1))

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            ended = [child for child in self._brokers.values() if not child.is_running()]
            assert not ended, ended[0].tail()
            assert time.monotonic() < deadline, f"no three brokers within {timeout_s:.0f} s"
            time.sleep(0.1)

    def kill(self, *numbers: int) -> None:
        for number in numbers:
            self._brokers[number].process.send_signal(signal.SIGKILL)
        for number in numbers:
            self._brokers[number].process.wait(STOP_TIMEOUT_S)

    def freeze(self, number: int) -> None:
        self._brokers[number].process.send_signal(signal.SIGSTOP)

    def thaw(self, *numbers: int) -> None:
        """Wake these brokers, or all."""
        for number in numbers or tuple(self._brokers):
            if self.is_running(number):
                self._brokers[number].process.send_signal(signal.SIGCONT)

    def stop(self, *numbers: int) -> None:
        """Stop these brokers cleanly, or all; leadership moves before a broker ends."""
        for number in numbers or tuple(self._brokers):
            self.thaw(number)
            self._brokers[number].stop(timeout_s=STOP_TIMEOUT_S)

    def close(self) -> None:
        """End all brokers at once: nobody needs their data any more."""
        for child in self._brokers.values():
            if child.is_running():
                child.process.kill()
        for child in self._brokers.values():
            child.process.wait(STOP_TIMEOUT_S)

    def _options(self, number: int) -> kafka.BrokerOptions:
        voters = ",".join(f"{nth}@127.0.0.1:{self._ports[BROKERS + nth - 1]}" for nth in range(1, BROKERS + 1))
        own = {"node.id": str(number), "controller.quorum.voters": voters}
        return kafka.BrokerOptions(self._cluster_id, _PROPERTIES | own, _JVM_OPTIONS)


@contextlib.contextmanager
def kafka_cluster(folder: Path) -> Iterator[KafkaCluster]:
    """Yield a running cluster with its files in ``folder``."""
    cluster = KafkaCluster(folder)
    try:
        cluster.start()
        cluster.wait_until_ready()
        yield cluster
    finally:
        cluster.close()
