"""Look up what a send attempt must know first: routing, providers, suppressions and whether the email was sent.

Called by the send job handler.
"""

from pipeline import admin
from pipeline.admin import Provider
from pipeline.dispatch.intake import SQL
from pipeline.dispatch.routing.routes import BrandRouting, get_brand_routing
from pipeline.runtime.batching_loader import BatchLoader
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.ttl_cache import DECISION_TTL_S, MAX_DECISIONS, TTLCache
from pipeline.suppressions.queries import SuppressionLookup, SuppressionQueries
from topics.record import EmailId
from topics.requests import SendRequest


class DispatchLookups:
    """Look-ups in Postgres: routing and providers are cached, per-email questions are asked in batches."""

    def __init__(self, pool: Pool, ring: SecretRing, suppressions: SuppressionQueries) -> None:
        self._pool = pool
        self._ring = ring
        self._suppressions = suppressions
        self._routings: TTLCache[tuple[str, str], BrandRouting] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)
        self._providers: TTLCache[str, Provider] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)
        self._suspended: TTLCache[str, bool] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)
        self._suppressed: BatchLoader[SuppressionLookup, str] = BatchLoader(self._load_suppressed)
        self._sent: BatchLoader[str, bool] = BatchLoader(self._load_sent)

    async def routing(self, request: SendRequest) -> BrandRouting:
        """Return the routing of the brand of a request. Raises NotFound if it has none."""
        return await self._routings.get(
            (request.tenant, request.brand), lambda key: get_brand_routing(self._pool, *key, self._ring)
        )

    async def provider(self, name: str) -> Provider:
        """Return a provider by its name. Raises NotFound."""
        return await self._providers.get(name, lambda name: admin.get_provider(self._pool, name, self._ring))

    async def is_suspended(self, tenant: str) -> bool:
        """Return whether a tenant is suspended. Raises NotFound if it was deleted."""
        return await self._suspended.get(tenant, self._load_suspended)

    async def suppression_reason(self, request: SendRequest) -> str:
        """Return why the brand must not write to the recipient; an empty string if it may."""
        return await self._suppressed.get(
            self._suppressions.lookup_for(request.tenant, request.brand, request.recipient)
        )

    async def was_sent(self, email_id: EmailId) -> bool:
        """Return whether events of the email show that it was sent."""
        return await self._sent.get(email_id)

    async def _load_suspended(self, tenant: str) -> bool:
        return await admin.get_suspension(self._pool, tenant) is not None

    async def _load_sent(self, email_ids: set[str]) -> dict[str, bool]:
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(SQL["sent_emails"], {"email_ids": list(email_ids)})).fetchall()
        sent = {email_id for (email_id,) in rows}
        return {email_id: email_id in sent for email_id in email_ids}

    async def _load_suppressed(self, lookups: set[SuppressionLookup]) -> dict[SuppressionLookup, str]:
        suppressed = await self._suppressions.find_suppressed(list(lookups))
        return {each: suppressed[each.key].description if each.key in suppressed else "" for each in lookups}
