"""The frame in which Faust is safe, and what a topology needs of it: sources, agents, a store of states.

Every setting here was measured to matter; Faust's defaults lose data silently.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import faust
from faust.events import Event

from pipeline.errors import BadSettings
from pipeline.settings import Settings
from pipeline.streaming import store, transport
from pipeline.streaming.batches import Batch, batches
from pipeline.streaming.outlet import Outlet, Write
from topics.registry import EMAIL_STATES, Topic

FAUST: Final = "0.15.3"
"""The one release that `transport` and `store` were written against: they override its insides."""

Batches = AsyncIterator[Batch]
Agent = Callable[[Batches], Awaitable[None]]


class Bytes(faust.Schema[Any, Any]):
    """Passes bytes through. A typed topic acknowledges what it can't decode, and then throws it away."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Faust's way to build a decoder."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return Event(app, message.key, message.value, message.headers, message)

        return decode


class Flow:
    """One worker's dataflow."""

    def __init__(self, settings: Settings, outlet: Outlet) -> None:
        if faust.__version__ != FAUST:
            raise BadSettings(f"faust-streaming {faust.__version__} is installed; the worker is built for {FAUST}")
        transport.register()
        store.register()
        self.settings = settings
        self.outlet = outlet
        self.app = _app(settings)

    def source(self, *topics: Topic) -> Callable[[Agent], Agent]:
        """Decorates the agent that reads these topics, in batches. One at a time: acks stay in order."""
        names = {self.settings.topic(topic.name): topic for topic in topics}
        channel = self.app.topic(*names, schema=Bytes(), partitions=self.settings.partitions)

        def decorate(agent: Agent) -> Agent:
            async def run(stream: Any) -> None:
                try:
                    await agent(batches(stream, names))
                except asyncio.CancelledError:
                    if not self.app.should_stop:
                        raise

            self.app.agent(channel, name=getattr(agent, "__name__", "agent"), concurrency=1)(run)
            return agent

        return decorate

    def states(self) -> "States":
        """The store of states, recovered from their topic."""
        name = self.settings.topic(EMAIL_STATES.name)
        changelog = self.app.topic(
            *[name],
            schema=Bytes(),
            partitions=self.settings.partitions,
            compacting=True,
            acks=False,
            internal=True,
            allow_empty=True,
            maxsize=131_072,
        )
        table = self.app.Table(
            EMAIL_STATES.name, key_type=bytes, value_type=bytes, partitions=self.settings.partitions, default=None
        )
        # Set before the app starts: Faust would otherwise name and create a changelog of its own.
        self.app.tables._changelogs.pop(table.changelog_topic.get_topic_name(), None)
        table.changelog_topic = changelog
        self.app.tables._changelogs[name] = table
        return States(table, self.outlet)


class States:
    """The states of the partitions that are this worker's."""

    def __init__(self, table: Any, outlet: Outlet) -> None:
        self._table = table
        self._outlet = outlet

    def read(self, partition: int, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """The stored states by key. Raises NotOurs."""
        return dict(zip(keys, self._table.data.read(partition, keys), strict=True))

    def keep(self, partition: int, values: Mapping[bytes, bytes], ends: Mapping[tuple[str, int], int]) -> None:
        """Store what :meth:`Outlet.write` confirmed, and only that. Raises NotOurs."""
        if values:
            self._table.data.write(partition, values, ends[EMAIL_STATES.name, partition])


def state_writes(partition: int, values: Mapping[bytes, bytes]) -> list[Write]:
    """States on their way to the changelog."""
    return [Write(EMAIL_STATES, partition, key, value) for key, value in values.items()]


def _app(settings: Settings) -> Any:
    folder = Path(settings.data_dir).absolute() / "worker"
    folder.mkdir(parents=True, exist_ok=True)
    brokers = [f"{transport.SCHEME}://{address.strip()}" for address in settings.kafka_bootstrap.split(",")]
    return faust.App(
        f"{settings.topic_prefix}mailfold",
        broker=brokers,
        store=f"{store.SCHEME}://",
        datadir=folder,
        autodiscover=False,
        web_enabled=False,
        agent_supervisor="mode.CrashingSupervisor",
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        table_standby_replicas=0,
        broker_commit_interval=0.5,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        broker_max_poll_records=1000,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=4096,
        stream_recovery_delay=0.0,
        key_serializer="raw",
        value_serializer="raw",
        reply_create_topic=False,
    )
