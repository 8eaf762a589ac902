"""Tests of the turns of large messages, with the waiting times recorded instead of waited."""

import asyncio

import pytest

from pipeline.dispatch.pacing import ACTIVE_S, MAX_BYTES_PER_S, LargeMessagePacer

SECOND = MAX_BYTES_PER_S
"""Bytes for which a tenant has a second."""


class Clock:
    """The event loop's clock as the pacer sees it, and the sleeps it asked for."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.sleeps: list[float] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(round(seconds, 3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


def test_only_tenant_never_waits(clock: Clock) -> None:
    pacer = LargeMessagePacer()
    for _ in range(3):
        pacer.note_job("acme")
        asyncio.run(pacer.wait_turn("acme", 10 * SECOND))
    assert clock.sleeps == []


def test_large_messages_beside_another_tenant_take_turns_by_their_size(clock: Clock) -> None:
    pacer = LargeMessagePacer()
    pacer.note_job("small")
    pacer.note_job("acme")
    for size in (SECOND, SECOND // 2, SECOND):
        asyncio.run(pacer.wait_turn("acme", size))
    assert clock.sleeps == [0, 1, 1.5]
    clock.now += 2
    asyncio.run(pacer.wait_turn("acme", SECOND))
    assert clock.sleeps[-1] == 0.5


def test_each_tenant_has_turns_of_its_own(clock: Clock) -> None:
    pacer = LargeMessagePacer()
    pacer.note_job("acme")
    pacer.note_job("other")
    asyncio.run(pacer.wait_turn("acme", 5 * SECOND))
    asyncio.run(pacer.wait_turn("other", SECOND))
    assert clock.sleeps == [0, 0]


def test_turns_end_when_the_others_have_had_no_job_for_a_while(clock: Clock) -> None:
    pacer = LargeMessagePacer()
    pacer.note_job("other")
    pacer.note_job("acme")
    asyncio.run(pacer.wait_turn("acme", 100 * SECOND))
    clock.now += ACTIVE_S + 1
    pacer.note_job("acme")
    asyncio.run(pacer.wait_turn("acme", SECOND))
    assert clock.sleeps == [0]
