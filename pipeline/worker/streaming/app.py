"""The frame in which Faust is safe, and what a topology needs of it: sources, agents, a store of states.

Every setting here was measured to matter; Faust's defaults lose data silently.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import faust
from faust.events import Event

from pipeline.errors import InvalidSettings
from pipeline.runtime.private_files import make_private_folder, narrow_folder
from pipeline.settings import Settings
from pipeline.worker.streaming import store, transport
from pipeline.worker.streaming.expiry_scan import ExpiryScan, FindExpired
from pipeline.worker.streaming.partitions import PartitionWriters
from pipeline.worker.streaming.producer import EventProducer
from pipeline.worker.streaming.runs import AgentBatch, claimed_batches
from topics.registry import EMAIL_STATES, Topic

FAUST_VERSION: Final = "0.15.3"
"""The one release that `transport` and `store` were written against: they override its insides."""

FETCH_MAX_BYTES: Final = 4 * 1024 * 1024
"""What is fetched of a partition at once, at most, and so a run: four times Kafka's default spare an eighth of the
CPU per event, because a run has its price, too."""
QUEUE_MAX_BATCHES: Final = 1
"""Runs that wait for an agent, or for recovery to store them: enough that it never waits. What lies here longer has
left the processor's cache when its turn comes."""
DAY_S: Final = 86_400.0
SCANS_PER_EXPIRY_PERIOD: Final = 10
"""How often a state is looked at until it is quiet, at least: it leaves at most a tenth of that time late."""

AgentBatches = AsyncIterator[AgentBatch]
AgentFunction = Callable[[AgentBatches], Awaitable[None]]


class BytesSchema(faust.Schema[Any, Any]):
    """Passes bytes through. A typed topic acknowledges what it can't decode, and then throws it away."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Faust's way to build a decoder."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return Event(app, message.key, message.value, message.headers, message)

        return decode


class WorkerFlow:
    """One worker's dataflow."""

    def __init__(self, settings: Settings, outlet: EventProducer) -> None:
        if faust.__version__ != FAUST_VERSION:
            raise InvalidSettings(
                f"faust-streaming {faust.__version__} is installed; the worker is built for {FAUST_VERSION}"
            )
        transport.register()
        store.register()
        self.settings = settings
        self.event_producer = outlet
        self.app = _app(settings)
        self.lanes = self.app.lanes = PartitionWriters(settings, self.app, self._states().data)

    def source(self, *topics: Topic) -> Callable[[AgentFunction], AgentFunction]:
        """Decorates the agent that reads these topics, run by run. One at a time: a partition keeps its order."""
        names = {self.settings.topic(topic.name): topic for topic in topics}
        channel = self.app.topic(*names, schema=BytesSchema(), partitions=self.settings.partitions)

        def decorate(agent: AgentFunction) -> AgentFunction:
            async def run(stream: Any) -> None:
                try:
                    await agent(claimed_batches(stream, names, self.lanes))
                except asyncio.CancelledError:
                    if not self.app.should_stop:
                        raise

            self.app.agent(channel, name=getattr(agent, "__name__", "agent"), concurrency=1)(run)
            return agent

        return decorate

    def expire_states(self, find_quiet: FindExpired) -> "WorkerFlow":
        """Take the states that it finds out of the table; none where the settings say never."""
        days = self.settings.quiet_days
        if days:
            table = self.app.tables[EMAIL_STATES.name].data
            walk = ExpiryScan(
                self.lanes, table, self.app, find_quiet, min(DAY_S, days * DAY_S / SCANS_PER_EXPIRY_PERIOD)
            )
            self.app.task(walk.run)
        return self

    def _states(self) -> Any:
        """The table of states, recovered from their topic."""
        name = self.settings.topic(EMAIL_STATES.name)
        changelog = self.app.topic(
            *[name],
            schema=BytesSchema(),
            partitions=self.settings.partitions,
            compacting=True,
            acks=False,
            internal=True,
            allow_empty=True,
            maxsize=QUEUE_MAX_BATCHES,
        )
        table = self.app.Table(
            EMAIL_STATES.name,
            key_type=bytes,
            value_type=bytes,
            partitions=self.settings.partitions,
            default=None,
            recovery_buffer_size=2,  # runs; Faust has other plans with a buffer of one
        )
        # Set before the app starts: Faust would otherwise name and create a changelog of its own.
        self.app.tables._changelogs.pop(table.changelog_topic.get_topic_name(), None)
        table.changelog_topic = changelog
        self.app.tables._changelogs[name] = table
        return table


def _app(settings: Settings) -> Any:
    folder = Path(settings.data_dir).absolute() / "worker"
    make_private_folder(folder)
    narrow_folder(folder)  # who wrote to whom lies in there
    brokers = [f"{transport.SCHEME}://{address.strip()}" for address in settings.kafka_bootstrap.split(",")]
    return faust.App(
        f"{settings.topic_prefix}mailfold",
        env={},  # to Faust, BROKER_URL, WEB_PORT and sixty more variables would win over what is said here
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
        broker_max_poll_records=10_000,
        consumer_max_fetch_size=FETCH_MAX_BYTES,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=QUEUE_MAX_BATCHES,
        stream_recovery_delay=0.0,
        key_serializer="raw",
        value_serializer="raw",
        reply_create_topic=False,
    )
