"""Lookups of API keys: what is cached, what wrong keys cost, and who is slowed by them. Counted, never timed."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, cast

import pytest

from pipeline import admin
from pipeline.admin import ApiKey, Tenant
from pipeline.gateway import key_lookup
from pipeline.gateway.key_lookup import UNKNOWN_KEYS_PER_S, KeyLookup, NetworkBudgets
from pipeline.gateway.problems import HttpProblem
from pipeline.runtime.postgres.database import Pool

FLOODED, ELSEWHERE = "203.0.113.9", "198.51.100.7"
BUDGET = int(UNKNOWN_KEYS_PER_S)


class Stage:
    """A lookup on a table of keys, with a clock and a slow lane that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.right: set[bytes] = set()
        self.queries: list[set[bytes]] = []
        self.slowed = 0
        self.now = 100.0
        self.slow_lane = asyncio.Event()
        self.lookup = KeyLookup(cast("Pool", None), self._count, lambda: self.now, self._wait)
        monkeypatch.setattr(admin, "find_keys", self._find)

    def _count(self) -> None:
        self.slowed += 1

    async def _wait(self, _seconds: float) -> None:
        await self.slow_lane.wait()

    async def _find(self, _pool: Pool, hashes: Collection[bytes]) -> dict[bytes, ApiKey]:
        self.queries.append(set(hashes))
        await asyncio.sleep(0)
        return {each: ApiKey(each.hex(), Tenant("acme"), stored_hash=each) for each in hashes if each in self.right}

    def flood(self, number: int, network: str = FLOODED) -> list["asyncio.Task[ApiKey | None]"]:
        """Look up that many wrong keys at once."""
        start = len(self.queries) * 1_000_000
        wrong = [b"wrong%d" % (start + each) for each in range(number)]
        return [asyncio.ensure_future(self.lookup.find(each, network)) for each in wrong]

    async def settle(self) -> None:
        """Let every task come as far as it can."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


async def test_right_key_is_looked_up_once_in_three_seconds(stage: Stage) -> None:
    stage.right.add(b"right")
    for _ in range(5):
        assert await stage.lookup.find(b"right", FLOODED) is not None
    assert len(stage.queries) == 1
    stage.now += 3.1
    assert await stage.lookup.find(b"right", FLOODED) is not None
    assert len(stage.queries) == 2


async def test_thousand_wrong_keys_of_one_network_cost_two_queries(stage: Stage) -> None:
    wrong = stage.flood(1_000)
    await stage.settle()
    assert sum(task.done() for task in wrong) == BUDGET
    assert stage.slowed == 1_000 - BUDGET
    stage.slow_lane.set()
    assert await asyncio.gather(*wrong) == [None] * 1_000
    assert [len(query) for query in stage.queries] == [BUDGET, 1_000 - BUDGET]


async def test_key_that_was_served_is_not_slowed_by_wrong_ones_beside_it(stage: Stage) -> None:
    stage.right.add(b"right")
    await stage.lookup.find(b"right", FLOODED)
    wrong = stage.flood(1_000)
    await stage.settle()
    stage.now += 3.1  # the cached lookup has ended, and the budget is empty again in the same moment
    wrong += stage.flood(1_000)
    await stage.settle()
    assert await stage.lookup.find(b"right", FLOODED) is not None
    assert stage.queries[-1] == {b"right"}
    assert not all(task.done() for task in wrong)
    stage.slow_lane.set()
    await asyncio.gather(*wrong)


async def test_right_key_not_served_before_is_found_late_and_never_refused(stage: Stage) -> None:
    wrong = stage.flood(100)
    await stage.settle()
    stage.right.add(b"new")
    new = asyncio.ensure_future(stage.lookup.find(b"new", FLOODED))
    await stage.settle()
    assert not new.done()
    stage.slow_lane.set()
    assert await new is not None
    await asyncio.gather(*wrong)


async def test_other_networks_are_not_slowed(stage: Stage) -> None:
    wrong = stage.flood(100)
    await stage.settle()
    assert await stage.lookup.find(b"also-wrong", ELSEWHERE) is None
    stage.slow_lane.set()
    await asyncio.gather(*wrong)


async def test_revoked_key_is_treated_as_a_wrong_one(stage: Stage) -> None:
    stage.right.add(b"right")
    await stage.lookup.find(b"right", FLOODED)
    stage.right.clear()
    stage.now += 3.1
    assert await stage.lookup.find(b"right", FLOODED) is None
    stage.slow_lane.set()
    for _ in range(BUDGET + 5):
        assert await stage.lookup.find(b"right", FLOODED) is None
    assert stage.slowed == 5


async def test_wrong_keys_leave_nothing_in_memory(stage: Stage) -> None:
    stage.slow_lane.set()
    await asyncio.gather(*stage.flood(500))
    assert len(stage.lookup._cached) == 0
    assert len(stage.lookup._lookup._served) == 0
    assert stage.lookup._lookup._slowed == 0


async def test_too_many_waiting_keys_are_asked_to_come_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_lookup, "MAX_SLOWED_LOOKUPS", 20)
    wrong = stage.flood(100)
    await stage.settle()
    stage.slow_lane.set()
    results = await asyncio.gather(*wrong, return_exceptions=True)
    refused = [result for result in results if isinstance(result, HttpProblem)]
    assert {problem.status for problem in refused} == {503}
    assert len(refused) == 100 - BUDGET - 20


def test_counted_networks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_lookup, "MAX_COUNTED_NETWORKS", 100)
    budgets = NetworkBudgets(lambda: 1.0)
    for number in range(1_000):
        assert budgets.take(f"network {number}")
    assert len(budgets) == 100


@pytest.mark.parametrize("number", [0, 1, 3])
def test_budget_is_refilled_with_time(number: int) -> None:
    now = [1.0]
    budgets = NetworkBudgets(lambda: now[0])
    assert [budgets.take("x") for _ in range(BUDGET + 1)] == [True] * BUDGET + [False]
    now[0] += number / UNKNOWN_KEYS_PER_S
    assert sum(budgets.take("x") for _ in range(BUDGET)) == number


async def test_use_is_noted_once_a_day(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Any] = []

    async def note(_pool: Pool, stored_hash: bytes, day: Any) -> None:
        noted.append((stored_hash, str(day)))

    monkeypatch.setattr(admin, "note_key_use", note)
    key = ApiKey("a", Tenant("acme"), stored_hash=b"a")
    day_ms = 86_400_000
    for now in (0, 5, day_ms - 1, day_ms, day_ms + 1):
        await stage.lookup.note_use(key, now)
    assert noted == [(b"a", "1970-01-01"), (b"a", "1970-01-02")]


async def test_request_is_answered_although_its_use_cannot_be_noted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: Callable[..., Any] = _raise_timeout
    monkeypatch.setattr(admin, "note_key_use", raised)
    await stage.lookup.note_use(ApiKey("a", Tenant("acme"), stored_hash=b"a"), 0)


async def _raise_timeout(*_: object) -> None:
    raise TimeoutError
