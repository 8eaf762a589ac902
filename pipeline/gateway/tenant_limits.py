"""Limits on how many messages a tenant may submit at once and per second; the routes of all dialects share them."""

import time

from pipeline.admin import Tenant
from pipeline.gateway.content_memory import ContentMemory
from pipeline.gateway.rate_limit import TenantBuckets
from pipeline.settings import Settings


class TenantLimits:
    """One gateway's limits per tenant: the tenant's own batch maximum and rate, else the installation's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = TenantBuckets()
        self.content_memory = ContentMemory()

    def grant_up_to(self, tenant: Tenant, wanted: int) -> tuple[int, int]:
        """Return how many of ``wanted`` messages fit into a batch, and how many of those the rate allows now."""
        batch_size = min(wanted, tenant.batch_max or self._settings.batch_max)
        return batch_size, self._buckets.take(tenant.tenant, batch_size, self._rate(tenant), time.monotonic())

    def grant_all(self, tenant: Tenant, wanted: int) -> float:
        """Grant all of ``wanted`` messages or none; return 0 if granted, else the seconds until a retry."""
        return self._buckets.take_all(tenant.tenant, wanted, self._rate(tenant), time.monotonic())

    def _rate(self, tenant: Tenant) -> float:
        return tenant.rate_per_second or self._settings.rate_per_second
