"""What the gateway's surfaces share: the runtime, what is counted, who calls, the log with its counters."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from pipeline.gateway.auth import Authenticate
from pipeline.gateway.certificates import Connector
from pipeline.gateway.client_info import Callers
from pipeline.gateway.event_buffer import Notes
from pipeline.gateway.hits import HitLimit
from pipeline.gateway.limits import Limits
from pipeline.gateway.memory import BodyMemory
from pipeline.gateway.metrics import Metrics
from pipeline.gateway.smtp.recorder import Keeper
from pipeline.gateway.spool import Spool
from pipeline.gateway.webhook_record import LARGE_MAX
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ports import Entry, Log
from pipeline.runtime.signing import Signer
from pipeline.webhooks.proofs import proofs_of
from topics.record import Place


class CountedLog:
    """The log, each append counted by topic and result."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._appends = metrics.appends

    async def append(self, entries: Sequence[Entry], *, within: float | None = None) -> list[Place | None]:
        """See the port."""
        places = await self._log.append(entries, within=within)
        counted = Counter((e.topic.name, place is not None) for e, place in zip(entries, places, strict=True))
        for (topic, confirmed), number in counted.items():
            self._appends.labels(topic, "confirmed" if confirmed else "unconfirmed").inc(number)
        return places


@dataclass(frozen=True)
class World:
    """One gateway."""

    rt: Runtime
    metrics: Metrics
    log: Log
    spool: Spool
    notes: Notes
    callers: Callers
    authenticate: Authenticate
    signer: Signer
    limits: Limits
    memory: BodyMemory
    hits: HitLimit
    mail: Keeper
    """Takes inbound mail."""
    connector: Connector
    """How servers of providers are reached."""


def make_world(rt: Runtime, connector: Connector = aiohttp.TCPConnector) -> World:
    """Everything the surfaces need; opens nothing."""
    metrics = Metrics()
    if rt.watchdog is not None:
        rt.watchdog.listen(metrics.loop_beat)
    log = CountedLog(rt.log, metrics)
    spool = Spool(rt.settings.data_dir / "spool", log, rt.new_id, metrics)
    signer = Signer(rt.settings.secret.get_secret_value(), "track")
    notes, callers = Notes(log, spool, metrics), Callers(rt.settings.trusted_proxies)
    mail = Keeper(log, rt.clock, proofs_of(rt.settings), metrics.registry)
    auth, limits = Authenticate(rt), Limits(rt.settings)
    memory = _memory(rt, metrics)
    hits = HitLimit(rt.clock)
    return World(rt, metrics, log, spool, notes, callers, auth, signer, limits, memory, hits, mail, connector)


def _memory(rt: Runtime, metrics: Metrics) -> BodyMemory:
    """Return the room for bodies: one alone may hold half of it, so the largest body must fit in there."""
    settings = rt.settings
    largest = max(settings.body_max, settings.inbound_max_bytes, LARGE_MAX)
    memory = BodyMemory(max(settings.body_memory, 2 * largest), metrics.refused.labels("memory").inc)
    metrics.body_bytes.set_function(lambda: memory.held)
    return memory
