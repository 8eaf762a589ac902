"""Decide from which domains a tenant's messages may come; the routes of all dialects ask it before they accept any."""

from pipeline import admin
from pipeline.admin import SenderRules, Tenant
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.ttl_cache import DECISION_TTL_S, MAX_DECISIONS, TTLCache
from topics.requests import Mailbox


class SenderPolicy:
    """The rules of one tenant; without rules every sender is accepted."""

    def __init__(self, rules: SenderRules | None) -> None:
        self._rules = rules

    @property
    def accepts_all(self) -> bool:
        """Return whether every sender is accepted."""
        return self._rules is None

    def problem(self, brand: str, sender: Mailbox | str | None) -> str:
        """Return why a brand may not send from this sender; empty if it may. None is the brand's own sender."""
        if self._rules is None:
            return ""
        return self._rules.problem(brand, sender.address if isinstance(sender, Mailbox) else sender)


class SenderPolicies:
    """Finds tenants' rules for one gateway, cached for a few seconds."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rules: TTLCache[str, SenderRules] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)

    async def of(self, tenant: Tenant) -> SenderPolicy:
        """Return a tenant's policy; a tenant that may send from every domain costs no query."""
        if not tenant.verified_senders:
            return SenderPolicy(None)
        return SenderPolicy(await self._rules.get(tenant.tenant, lambda name: admin.get_sender_rules(self._pool, name)))
