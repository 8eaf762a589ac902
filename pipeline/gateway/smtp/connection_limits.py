"""Who connects, how often, in; whether there is room and rate for them, out. Pure but for the clock it is given."""

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from pipeline.gateway.rate_limit import TokenBucket

MAX_CONNECTIONS_PER_NETWORK: Final = 20
"""Connections of one sending server at once; relays of large providers stay below it."""
_MAX_BUCKETS: Final = 10_000


class SmtpConnectionLimits:
    """Counts sessions and messages per sending network."""

    def __init__(self, most: int, rate: float, now: Callable[[], float]) -> None:
        self._most = most
        self._rate = rate
        self._now = now
        self._inside: Counter[str] = Counter()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    @property
    def open_connections(self) -> int:
        """Connections at this moment."""
        return self._inside.total()

    def admit(self, host: str) -> bool:
        """Whether one more may come in."""
        network = _network(host)
        if self.open_connections >= self._most or self._inside[network] >= min(MAX_CONNECTIONS_PER_NETWORK, self._most):
            return False
        self._inside[network] += 1
        return True

    def leave(self, host: str) -> None:
        """One that came in is gone."""
        network = _network(host)
        self._inside[network] -= 1
        if self._inside[network] <= 0:
            del self._inside[network]

    def admit_message(self, host: str) -> bool:
        """Whether one more message may come from there now."""
        if math.isclose(self._rate, 0):
            return True
        network = _network(host)
        bucket = self._buckets.setdefault(network, TokenBucket(self._now()))
        self._buckets.move_to_end(network)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket.take(1, self._rate, self._now()) == 1


def _network(host: str) -> str:
    """Of IPv6 the /64: whoever has one address there has them all."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host
