"""What is known before anybody is contacted: a brand's way, providers, suppressions, whether it was sent already."""

from pipeline import admin
from pipeline.admin import Provider
from pipeline.dispatch.intake import SQL
from pipeline.dispatch.routing.routes import BrandRouting, get_brand_routing
from pipeline.runtime.batching_loader import BatchLoader
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ttl_cache import DECISION_TTL_S, MAX_DECISIONS, TTLCache
from pipeline.suppressions.queries import SuppressionLookup, SuppressionQueries
from topics.record import EmailId
from topics.requests import SendRequest


class DispatchLookups:
    """Asks Postgres: seldom where it changes seldom, many at once where it doesn't."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._secret = rt.settings.secret.get_secret_value()
        self._asking = SuppressionQueries(rt)
        self._ways: TTLCache[tuple[str, str], BrandRouting] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)
        self._providers: TTLCache[str, Provider] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)
        self._suppressed: BatchLoader[SuppressionLookup, str] = BatchLoader(self._ask_suppressed)
        self._sent: BatchLoader[str, bool] = BatchLoader(self._ask_sent)

    async def routing(self, request: SendRequest) -> BrandRouting:
        """How the brand's mail goes. Raises NotFound."""
        return await self._ways.get(
            (request.tenant, request.brand), lambda key: get_brand_routing(self._rt.pool, *key, self._secret)
        )

    async def provider(self, name: str) -> Provider:
        """A provider's row. Raises NotFound."""
        return await self._providers.get(name, lambda name: admin.get_provider(self._rt.pool, name, self._secret))

    async def suppression_reason(self, request: SendRequest) -> str:
        """Why its brand doesn't write to this address; empty: it does."""
        return await self._suppressed.get(self._asking.lookup_for(request.tenant, request.brand, request.recipient))

    async def was_sent(self, email_id: EmailId) -> bool:
        """Whether its own events tell that it was sent."""
        return await self._sent.get(email_id)

    async def _ask_sent(self, email_ids: set[str]) -> dict[str, bool]:
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["heard_of"], {"email_ids": list(email_ids)})).fetchall()
        found = {email_id for (email_id,) in rows}
        return {email_id: email_id in found for email_id in email_ids}

    async def _ask_suppressed(self, questions: set[SuppressionLookup]) -> dict[SuppressionLookup, str]:
        found = await self._asking.find_suppressed(list(questions))
        return {asked: found[asked.key].description if asked.key in found else "" for asked in questions}
