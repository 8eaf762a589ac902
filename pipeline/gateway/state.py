"""The objects that all routes of one gateway share; `server.py` makes them once and hands them to the routes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from pipeline.admin import ApiKey
from pipeline.admin.actions import ActionRecorder
from pipeline.gateway.auth import ApiKeyAuthenticator
from pipeline.gateway.body_memory import BodyMemory
from pipeline.gateway.certificates import ConnectorFactory
from pipeline.gateway.client_info import ClientInfoReader
from pipeline.gateway.event_buffer import EventBuffer
from pipeline.gateway.history_reader import HistoryReader
from pipeline.gateway.hit_limit import HitLimit
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.sender_policy import SenderPolicies
from pipeline.gateway.smtp.recorder import InboundMailRecorder
from pipeline.gateway.spool import Spool
from pipeline.gateway.tenant_limits import TenantLimits
from pipeline.gateway.tenant_questions import TenantQuestions
from pipeline.gateway.webhook_record import REQUEST_MAX_BYTES
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ports import Log, LogEntry
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.webhooks.token_readers import token_readers
from topics.record import LogPosition


class CountedLog:
    """A log that counts each appended record by topic and result."""

    def __init__(self, log: Log, metrics: GatewayMetrics) -> None:
        self._log = log
        self._appends = metrics.appends

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        """Append records, as :meth:`pipeline.runtime.ports.Log.append` does, and count the results."""
        places = await self._log.append(entries, within=within)
        counted = Counter((e.topic.name, place is not None) for e, place in zip(entries, places, strict=True))
        for (topic, confirmed), number in counted.items():
            self._appends.labels(topic, "confirmed" if confirmed else "unconfirmed").inc(number)
        return places


@dataclass(frozen=True)
class GatewayState:
    """The shared objects of one gateway."""

    runtime: Runtime
    metrics: GatewayMetrics
    log: Log
    history: HistoryReader
    questions: TenantQuestions
    spool: Spool
    event_buffer: EventBuffer
    client_info: ClientInfoReader
    authenticate: ApiKeyAuthenticator
    signer: Signer
    limits: TenantLimits
    senders: SenderPolicies
    body_memory: BodyMemory
    hit_limit: HitLimit
    inbound_mail: InboundMailRecorder
    connector: ConnectorFactory
    """Makes connections to providers' own servers."""

    def actions_of(self, key: ApiKey, actor: str = "") -> ActionRecorder:
        """Return the recorder of the changes that this key makes, by API or as another ``actor``."""
        return ActionRecorder(self.log, self.runtime.clock, self.runtime.new_id, actor or f"api {key.name}")


def make_gateway_state(
    rt: Runtime,
    connector: ConnectorFactory = aiohttp.TCPConnector,
    standby: Pool | None = None,
    history_pool: Pool | None = None,
) -> GatewayState:
    """Return a gateway's shared objects, without opening a connection, a socket or a file.

    ``standby``: a pool of connections to the database from which listings are read. ``history_pool``: one to the
    primary for listings that the standby does not answer; the runtime's own by default.
    """
    metrics = GatewayMetrics()
    rt.health.use_metrics(metrics)
    log = CountedLog(rt.log, metrics)
    spool = Spool(rt.settings.data_dir / "spool", log, rt.new_id, metrics)
    client_info = ClientInfoReader(rt.settings.trusted_proxies)
    signer = Signer(secret_ring(rt.settings), "track")
    return GatewayState(
        runtime=rt,
        metrics=metrics,
        log=log,
        history=HistoryReader(history_pool or rt.pool, standby, max_lag_s=rt.settings.database_read_max_lag),
        questions=TenantQuestions(),
        spool=spool,
        event_buffer=EventBuffer(log, spool, metrics, rt.tracer),
        client_info=client_info,
        authenticate=ApiKeyAuthenticator(rt, client_info, metrics),
        signer=signer,
        limits=TenantLimits(rt.settings),
        senders=SenderPolicies(rt.pool),
        body_memory=_body_memory(rt, metrics),
        hit_limit=HitLimit(rt.clock),
        inbound_mail=InboundMailRecorder(log, rt.clock, token_readers(secret_ring(rt.settings)), metrics.registry),
        connector=connector,
    )


def _body_memory(rt: Runtime, metrics: GatewayMetrics) -> BodyMemory:
    """Return the limit on the memory of bodies: a lone request may use half of it, which must fit the largest body."""
    settings = rt.settings
    largest = max(settings.body_max, settings.inbound_max_bytes, REQUEST_MAX_BYTES)
    memory = BodyMemory(max(settings.body_memory, 2 * largest), metrics.refused.labels("memory").inc)
    metrics.body_bytes.set_function(lambda: memory.held)
    return memory
