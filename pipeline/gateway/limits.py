"""A tenant and how many messages it hands in -> how many are taken now; one allowance for all dialects."""

import time

from pipeline.admin import Tenant
from pipeline.gateway.byte_budget import ByteBudget
from pipeline.gateway.rate_limit import TenantBuckets
from pipeline.settings import Settings


class TenantLimits:
    """The tenants' batch maximum and rate, else the installation's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = TenantBuckets()
        self.content_budget = ByteBudget()

    def grant_up_to(self, tenant: Tenant, wanted: int) -> tuple[int, int]:
        """How many fit into a batch, and how many of those are taken now."""
        most = min(wanted, tenant.batch_max or self._settings.batch_max)
        return most, self._buckets.take(tenant.tenant, most, self._rate(tenant), time.monotonic())

    def grant_all(self, tenant: Tenant, wanted: int) -> float:
        """All or none: 0, or in how many seconds to try again."""
        return self._buckets.take_all(tenant.tenant, wanted, self._rate(tenant), time.monotonic())

    def _rate(self, tenant: Tenant) -> float:
        return tenant.rate_per_second or self._settings.rate_per_second
