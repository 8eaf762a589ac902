"""How many messages a tenant may hand in now: a token bucket each. Pure; the clock comes in.

Per process: with n gateways behind a balancer a tenant gets up to n times its rate.
"""

import math

BUCKET_CAPACITY_S = 1.0
"""A bucket holds so many seconds' worth, and never less than one message."""


class TokenBucket:
    """Fills at ``rate`` per second up to ``BURST_S`` seconds' worth; starts full."""

    def __init__(self, now: float) -> None:
        self._tokens = math.inf
        self._at = now

    def take(self, wanted: int, rate: float, now: float) -> int:
        """How many of ``wanted`` are granted; a rate of 0 is no limit."""
        if rate <= 0:
            return wanted
        # The rate comes with each call, because an operator may change it at any time.
        self._tokens = min(self._tokens + (now - self._at) * rate, max(1.0, rate * BUCKET_CAPACITY_S))
        self._at = now
        granted = min(wanted, max(0, int(self._tokens)))
        self._tokens -= granted
        return granted

    def take_all(self, wanted: int, rate: float, now: float) -> float:
        """0 where all of ``wanted`` are granted, else the seconds until they would be.

        More than a bucket holds is granted when it is full, and the next must wait for the rest: what
        can't be split would never be granted otherwise.
        """
        if rate <= 0:
            return 0.0
        full = max(1.0, rate * BUCKET_CAPACITY_S)
        self._tokens = min(self._tokens + (now - self._at) * rate, full)
        self._at = now
        missing = min(float(wanted), full) - self._tokens
        if missing > 0:
            return missing / rate
        self._tokens -= wanted
        return 0.0


class TenantBuckets:
    """A bucket per tenant, made at its first message."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, tenant: str, wanted: int, rate: float, now: float) -> int:
        """See :meth:`Bucket.take`."""
        return self._bucket(tenant, now).take(wanted, rate, now)

    def take_all(self, tenant: str, wanted: int, rate: float, now: float) -> float:
        """See :meth:`Bucket.take_whole`."""
        return self._bucket(tenant, now).take_all(wanted, rate, now)

    def _bucket(self, tenant: str, now: float) -> TokenBucket:
        return self._buckets.setdefault(tenant, TokenBucket(now))
