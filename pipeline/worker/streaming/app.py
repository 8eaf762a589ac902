"""The worker's Faust app: its sources, agents and state table, with settings that lose no data.

`topology` declares the dataflow with it, `runner` runs it. Every setting here was measured to matter; Faust's
defaults lose data silently.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import faust
from faust.events import Event

from pipeline.errors import InvalidSettings
from pipeline.runtime.kafka.log_compression import LogCompression
from pipeline.runtime.observing.tracing import NO_TRACER, Tracer
from pipeline.runtime.private_files import make_private_folder, narrow_folder
from pipeline.settings import Settings
from pipeline.worker.metrics import WorkerMetrics
from pipeline.worker.streaming import store, transport
from pipeline.worker.streaming.credentials import broker_credentials
from pipeline.worker.streaming.expiry_scan import ExpiryScan, FindExpired
from pipeline.worker.streaming.partitions import PartitionWriters
from pipeline.worker.streaming.producer import EventProducer
from pipeline.worker.streaming.runs import AgentBatch, claimed_batches
from topics.registry import EMAIL_STATES, Topic

FAUST_VERSION: Final = "0.15.3"
"""The only supported Faust release: `transport` and `store` override its internals."""

FETCH_MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes fetched of a partition at once, and so the size of a batch, at most. Four times Kafka's default saves an eighth
of the CPU time per event, because each batch has a fixed cost."""
QUEUE_MAX_BATCHES: Final = 1
"""Batches that wait for an agent or for recovery. One is enough that neither waits; with more, records would have left
the processor's cache when they are processed."""
DAY_S: Final = 86_400.0
SCANS_PER_EXPIRY_PERIOD: Final = 10
"""Scans of a state before it expires, at least: it is removed at most a tenth of the expiry period late."""

AgentBatches = AsyncIterator[AgentBatch]
AgentFunction = Callable[[AgentBatches], Awaitable[None]]


class BytesSchema(faust.Schema[Any, Any]):
    """A schema that passes bytes through. A typed Faust topic acknowledges and drops what it can't decode."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Return the decoder that Faust calls for each message."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return Event(app, message.key, message.value, message.headers, message)

        return decode


class WorkerFlow:
    """One worker's Faust app with its event producer and partition writers."""

    def __init__(
        self,
        settings: Settings,
        event_producer: EventProducer,
        compression: LogCompression | None = None,
        metrics: WorkerMetrics | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        if faust.__version__ != FAUST_VERSION:
            raise InvalidSettings(
                f"faust-streaming {faust.__version__} is installed; the worker is built for {FAUST_VERSION}"
            )
        transport.register()
        store.register()
        self.settings = settings
        self.event_producer = event_producer
        self.metrics = metrics or WorkerMetrics()
        self.tracer = tracer
        self.app = _app(settings)
        self.writers = self.app.writers = PartitionWriters(
            settings, self.app, self._states().data, self.metrics.fold_seconds, compression=compression, tracer=tracer
        )

    def source(self, *topics: Topic) -> Callable[[AgentFunction], AgentFunction]:
        """Return a decorator for the agent that reads these topics batch by batch.

        One agent processes one batch at a time, so that a partition keeps its order.
        """
        names = {self.settings.topic(topic.name): topic for topic in topics}
        channel = self.app.topic(*names, schema=BytesSchema(), partitions=self.settings.partitions)

        def decorate(agent: AgentFunction) -> AgentFunction:
            async def run(stream: Any) -> None:
                try:
                    await agent(claimed_batches(stream, names, self.writers))
                except asyncio.CancelledError:
                    if not self.app.should_stop:
                        raise

            self.app.agent(channel, name=getattr(agent, "__name__", "agent"), concurrency=1)(run)
            return agent

        return decorate

    def expire_states(self, find_expired: FindExpired) -> "WorkerFlow":
        """Remove the states that ``find_expired`` returns from the table, unless the settings disable expiry."""
        days = self.settings.quiet_days
        if days:
            store = self.app.tables[EMAIL_STATES.name].data
            scan_duration_s = min(DAY_S, days * DAY_S / SCANS_PER_EXPIRY_PERIOD)
            scan = ExpiryScan(self.writers, store, self.app, find_expired, scan_duration_s)
            self.app.task(scan.run)
        return self

    def _states(self) -> Any:
        """Return the table of states, which Faust recovers from the topic `email-states`."""
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
            recovery_buffer_size=2,  # batches; Faust treats a buffer of one differently
        )
        # Set before the app starts: Faust would otherwise create a changelog topic with a name of its own.
        self.app.tables._changelogs.pop(table.changelog_topic.get_topic_name(), None)
        table.changelog_topic = changelog
        self.app.tables._changelogs[name] = table
        return table


def _app(settings: Settings) -> Any:
    folder = Path(settings.data_dir).absolute() / "worker"
    make_private_folder(folder)
    narrow_folder(folder)  # the states hold recipients' addresses
    brokers = [f"{transport.SCHEME}://{address.strip()}" for address in settings.kafka_bootstrap.split(",")]
    return faust.App(
        f"{settings.topic_prefix}mailfold",
        env={},  # else BROKER_URL, WEB_PORT and sixty more environment variables would override these settings
        broker=brokers,
        broker_credentials=broker_credentials(settings),
        consumer_group_instance_id=settings.kafka_group_instance_id or None,
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
