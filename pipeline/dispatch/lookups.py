"""What is known before anybody is contacted: a brand's way, providers, suppressions, whether it was sent already."""

from pipeline import admin
from pipeline.admin import Provider
from pipeline.dispatch.intake import SQL
from pipeline.dispatch.routing.routes import Way, get_way
from pipeline.runtime.batching_loader import Coalesced
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ttl_cache import DECISION_TTL_S, MAX_DECISIONS, TTLCache
from pipeline.suppressions.queries import Asking, SuppressionQuestion
from topics.record import EmailId
from topics.requests import SendRequest


class Known:
    """Asks Postgres: seldom where it changes seldom, many at once where it doesn't."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._secret = rt.settings.secret.get_secret_value()
        self._asking = Asking(rt)
        self._ways: TTLCache[tuple[str, str], Way] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)
        self._providers: TTLCache[str, Provider] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)
        self._suppressed: Coalesced[SuppressionQuestion, str] = Coalesced(self._ask_suppressed)
        self._sent: Coalesced[str, bool] = Coalesced(self._ask_sent)

    async def way(self, request: SendRequest) -> Way:
        """How the brand's mail goes. Raises NotFound."""
        return await self._ways.get(
            (request.tenant, request.brand), lambda key: get_way(self._rt.pool, *key, self._secret)
        )

    async def provider(self, name: str) -> Provider:
        """A provider's row. Raises NotFound."""
        return await self._providers.get(name, lambda name: admin.get_provider(self._rt.pool, name, self._secret))

    async def suppressed(self, request: SendRequest) -> str:
        """Why its brand doesn't write to this address; empty: it does."""
        return await self._suppressed.get(self._asking.question(request.tenant, request.brand, request.recipient))

    async def sent(self, email_id: EmailId) -> bool:
        """Whether its own events tell that it was sent."""
        return await self._sent.get(email_id)

    async def _ask_sent(self, email_ids: set[str]) -> dict[str, bool]:
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["heard_of"], {"email_ids": list(email_ids)})).fetchall()
        found = {email_id for (email_id,) in rows}
        return {email_id: email_id in found for email_id in email_ids}

    async def _ask_suppressed(self, questions: set[SuppressionQuestion]) -> dict[SuppressionQuestion, str]:
        found = await self._asking.suppressed(list(questions))
        return {asked: found[asked.key].words if asked.key in found else "" for asked in questions}
