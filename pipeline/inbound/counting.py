"""A message from any road in; on the log as it is, counted by road and by what became of it, out."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipeline.hearing.adapter import Proofs
from pipeline.inbound.envelope import record
from pipeline.ports import Clock, Entry, Log
from topics.registry import PROVIDER_WEBHOOKS
from topics.webhooks import RawWebhook

WITHOUT: Final = "unsigned"


class Keeper:
    """Puts inbound mail on the log."""

    def __init__(self, log: Log, clock: Clock, proofs: Proofs, registry: CollectorRegistry) -> None:
        self._log = log
        self._clock = clock
        self._proofs = proofs
        self._mails = Counter(
            "mailfold_inbound_mails",
            "Inbound mail, by road and by what became of it: signed, unsigned (its address bears no signature of ours: "
            "it counts only if the message does), unconfirmed, refused, limited, turned_away.",
            ["road", "result"],
            registry=registry,
        )
        self._connections = Gauge("mailfold_inbound_connections", "SMTP connections open now.", registry=registry)

    def count(self, road: str, result: str) -> None:
        """One more."""
        self._mails.labels(road, result).inc()

    def watch(self, connections: Callable[[], int]) -> None:
        """Ask this for the number of connections, whenever somebody wants to know."""
        self._connections.set_function(connections)

    async def take_smtp(self, head: bytes, size: int, to: str, sender: str) -> bool:
        """See :data:`pipeline.inbound.session.Take`."""
        return await self.take("smtp", record(head, self._clock(), to=to, sender=sender, size=size), to)

    async def take(self, road: str, mail: RawWebhook, to: str) -> bool:
        """Whether the log has it."""
        places = await self._log.append([Entry(PROVIDER_WEBHOOKS, None, mail)])
        signed = self._proofs.verp(to) or self._proofs.unsubscribe(to)
        self.count(road, "unconfirmed" if None in places else "signed" if signed else WITHOUT)
        return None not in places
