"""How often the gateway asks Postgres from which domains a tenant may send."""

from typing import Any

import pytest

from pipeline import admin
from pipeline.admin import SenderRules, Tenant
from pipeline.gateway.sender_policy import SenderPolicies
from topics.requests import Mailbox

POOL: Any = None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tenants whose rules were read."""
    tenants: list[str] = []

    async def get_sender_rules(_pool: Any, tenant: str) -> SenderRules:
        tenants.append(tenant)
        return SenderRules({"*": frozenset({"shop.example"})})

    monkeypatch.setattr(admin, "get_sender_rules", get_sender_rules)
    return tenants


async def test_rules_are_read_once_for_many_requests(asked: list[str]) -> None:
    policies = SenderPolicies(POOL)
    for _ in range(100):
        policy = await policies.of(Tenant("acme", verified_senders=True))
        assert policy.problem("1", Mailbox(address="a@shop.example", name="")) == ""
        assert policy.problem("1", "a@other.example") != ""
    assert asked == ["acme"]


async def test_tenant_that_may_send_from_every_domain_costs_no_query(asked: list[str]) -> None:
    policy = await SenderPolicies(POOL).of(Tenant("acme"))
    assert policy.accepts_all
    assert policy.problem("1", "a@other.example") == ""
    assert asked == []
