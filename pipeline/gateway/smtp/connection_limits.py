"""Limits on SMTP connections and messages per sending network; the SMTP session checks them. Pure but for the clock."""

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from pipeline.gateway.rate_limit import TokenBucket

MAX_CONNECTIONS_PER_NETWORK: Final = 20
"""Simultaneous connections from one network; the relays of large providers stay below it."""
_MAX_BUCKETS: Final = 10_000
"""Networks whose message rate is tracked; the one that was idle longest is dropped first."""


class SmtpConnectionLimits:
    """Counts connections and messages per sending network.

    ``rate`` is in messages per second and network, 0 for no limit; ``now`` returns seconds.
    """

    def __init__(self, max_connections: int, rate: float, now: Callable[[], float]) -> None:
        self._max_connections = max_connections
        self._rate = rate
        self._now = now
        self._connections: Counter[str] = Counter()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    @property
    def open_connections(self) -> int:
        """Return the number of open connections."""
        return self._connections.total()

    def admit(self, host: str) -> bool:
        """Count one more connection from this host; return False if it exceeds a limit."""
        network = _network(host)
        if self.open_connections >= self._max_connections:
            return False
        if self._connections[network] >= MAX_CONNECTIONS_PER_NETWORK:
            return False
        self._connections[network] += 1
        return True

    def leave(self, host: str) -> None:
        """Count one admitted connection less."""
        network = _network(host)
        self._connections[network] -= 1
        if self._connections[network] <= 0:
            del self._connections[network]

    def admit_message(self, host: str) -> bool:
        """Count one more message from this host; return False if it exceeds the rate."""
        if math.isclose(self._rate, 0):
            return True
        network = _network(host)
        bucket = self._buckets.setdefault(network, TokenBucket(self._now()))
        self._buckets.move_to_end(network)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket.take(1, self._rate, self._now()) == 1


def _network(host: str) -> str:
    """Return the network that a host is counted as: its /64 if it is IPv6, because one sender may own all of that."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
