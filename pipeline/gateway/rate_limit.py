"""Token buckets, which limit the rate of tenants' messages and of inbound mail. Pure: callers pass the time.

Each process counts for itself: with n gateways behind a load balancer a tenant gets up to n times its rate.
"""

import math

BUCKET_CAPACITY_S = 1.0
"""Seconds of a rate that a bucket holds; it holds at least one token."""


class TokenBucket:
    """A token bucket that starts full and is refilled at the rate that each call passes, in tokens per second.

    The rate comes with each call because an operator may change it at any time; a rate of 0 means no limit.
    """

    def __init__(self, now: float) -> None:
        self._tokens = math.inf
        self._filled_at = now

    def take(self, wanted: int, rate: float, now: float) -> int:
        """Take as many of ``wanted`` tokens as there are; return how many."""
        if rate <= 0:
            return wanted
        self._tokens = min(self._tokens + (now - self._filled_at) * rate, max(1.0, rate * BUCKET_CAPACITY_S))
        self._filled_at = now
        granted = min(wanted, max(0, int(self._tokens)))
        self._tokens -= granted
        return granted

    def take_all(self, wanted: int, rate: float, now: float) -> float:
        """Take all of ``wanted`` tokens or none; return 0 if taken, else the seconds until they can be.

        If ``wanted`` exceeds the capacity, a full bucket suffices and its balance becomes negative; otherwise a large
        request that cannot be split would never be granted.
        """
        if rate <= 0:
            return 0.0
        capacity = max(1.0, rate * BUCKET_CAPACITY_S)
        self._tokens = min(self._tokens + (now - self._filled_at) * rate, capacity)
        self._filled_at = now
        missing = min(float(wanted), capacity) - self._tokens
        if missing > 0:
            return missing / rate
        self._tokens -= wanted
        return 0.0


class TenantBuckets:
    """One token bucket per tenant, created with the tenant's first message."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, tenant: str, wanted: int, rate: float, now: float) -> int:
        """Take tokens of a tenant; see :meth:`TokenBucket.take`."""
        return self._bucket(tenant, now).take(wanted, rate, now)

    def take_all(self, tenant: str, wanted: int, rate: float, now: float) -> float:
        """Take tokens of a tenant, all or none; see :meth:`TokenBucket.take_all`."""
        return self._bucket(tenant, now).take_all(wanted, rate, now)

    def _bucket(self, tenant: str, now: float) -> TokenBucket:
        return self._buckets.setdefault(tenant, TokenBucket(now))
