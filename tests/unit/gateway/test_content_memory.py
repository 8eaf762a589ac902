"""Tests of the memory budgets of rendered contents, for a request and for the whole gateway."""

import asyncio
import json
import threading
from collections.abc import Callable

import pytest

from pipeline.content import templates
from pipeline.dialects import email_v1_send as dialect
from pipeline.dialects.email_v1_send import EmailV1Result
from pipeline.errors import LogUnavailable, Refused
from pipeline.gateway.content_memory import ContentMemory
from pipeline.gateway.routes import email_v1_send as surface
from pipeline.runtime.fair_threads import CURRENT_CALLER
from tests.support.dialects import BRAND, email_v1
from topics.templates import TemplateTexts


def render_all(count: int, html: str, **changed: str) -> tuple[list[str], dict[int, EmailV1Result], int]:
    """Return the HTML of the first part of so many messages, the results, and the number of contents held."""
    template = templates.make_draft("t", f"{BRAND}.token", {"default": TemplateTexts(html=html, subject="s")})
    messages = [email_v1(To=f"r{nth}@example.com", **changed) for nth in range(count)]
    _, commands, results = dialect.parse_request(json.dumps({"Messages": messages}).encode())
    rendered = surface._render(commands, {f"{BRAND}.token": template}, 0, results)
    return [part.content.html for _, part in rendered], results, len({id(part.content) for _, part in rendered})


def test_equal_contents_are_held_once() -> None:
    texts, results, held = render_all(100, "<p>{{ Token }}</p>" + "x" * 200_000)
    assert (len(texts), results, held) == (100, {}, 1)


def test_different_contents_are_accepted_in_parts_of_limited_size() -> None:
    texts, results, held = render_all(100, "<p>{{ To }}</p>" + "x" * 200_000)
    assert (len(texts), results, held) == (80, {}, 80)


def test_messages_over_the_budget_of_a_request_get_a_retryable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "MAX_RENDERED_BYTES", 5_000_000)
    texts, results, _ = render_all(100, "<p>{{ Token }}</p>" + "x" * 200_000)
    assert len(texts) == 25
    assert sorted(results) == list(range(25, 100))
    assert results[25] == EmailV1Result(status=429, error=f"Messages[25]: {surface.OVER_CONTENTS}")


def test_too_many_messages_are_refused() -> None:
    with pytest.raises(Refused, match="more than 100000 messages"):
        dialect.parse_request(b'{"Messages": [' + b"0," * 100_000 + b"0]}")
    with pytest.raises(Refused, match="more than 1000000 values"):
        dialect.parse_request(b'{"Messages": [' + b"0," * 1_000_000 + b"0]}")


async def test_content_waits_until_there_is_room() -> None:
    budget = ContentMemory(max_bytes=10)
    order: list[str] = []

    async def hold(name: str, size: int, until: asyncio.Event | None = None) -> None:
        CURRENT_CALLER.set(name)
        async with budget.render_and_hold(lambda: size, lambda rendered: rendered, 5.0):
            order.append(name)
            if until is not None:
                await until.wait()

    done = asyncio.Event()
    first = asyncio.create_task(hold("first", 8, done))
    while not order:
        await asyncio.sleep(0)
    second = asyncio.create_task(hold("second", 3))
    await asyncio.create_task(hold("small", 2))
    assert order == ["first", "small"]
    done.set()
    await asyncio.gather(first, second)
    await hold("larger than all the room", 11)
    assert order == ["first", "small", "second", "larger than all the room"]


async def test_slow_renderings_of_a_tenant_do_not_delay_others() -> None:
    budget, gate, begun = ContentMemory(renderings=4), threading.Event(), list[str]()

    def slow() -> int:
        begun.append(CURRENT_CALLER.get())
        assert gate.wait(20)
        return 1

    async def post(tenant: str, render: Callable[[], int], patience_s: float) -> None:
        CURRENT_CALLER.set(tenant)
        async with budget.render_and_hold(render, lambda rendered: rendered, patience_s):
            pass

    greedy = [asyncio.create_task(post("greedy", slow, 20)) for _ in range(20)]
    try:
        while not begun:
            await asyncio.sleep(0.001)
        await asyncio.create_task(post("modest", lambda: 1, 5))
        assert len(begun) <= 2, "and it has no more than half of the slots"
    finally:
        gate.set()
        await asyncio.gather(*greedy)


async def test_large_contents_of_a_tenant_leave_room_and_slots_to_others() -> None:
    budget, done, held = ContentMemory(max_bytes=100, renderings=4), asyncio.Event(), list[str]()

    async def hold(tenant: str, size: int) -> None:
        CURRENT_CALLER.set(tenant)
        async with budget.render_and_hold(lambda: size, lambda rendered: rendered, 5):
            held.append(tenant)
            await done.wait()

    tasks = [asyncio.create_task(hold("greedy", 45)) for _ in range(6)]
    while not held:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(hold(f"modest {nth}", 20)) for nth in range(2)]
    try:
        async with asyncio.timeout(4):
            while len(held) < 3:
                await asyncio.sleep(0.001)
        assert sorted(held) == ["greedy", "modest 0", "modest 1"]
    finally:
        done.set()
        await asyncio.gather(*tasks)


async def test_cancelled_wait_releases_everything() -> None:
    budget, gate = ContentMemory(max_bytes=10, renderings=1), asyncio.Event()

    async def hold(size: int) -> None:
        async with budget.render_and_hold(lambda: size, lambda rendered: rendered, 20):
            await gate.wait()

    # The first holds room, the second waits for room, the third for a slot.
    tasks = [asyncio.create_task(hold(8)) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in reversed(tasks):
        task.cancel()
        await asyncio.wait([task])
    async with budget.render_and_hold(lambda: 10, lambda rendered: rendered, 5.0) as rendered:
        assert rendered == 10


async def test_timeout_of_a_wait_is_unavailable_and_releases_everything() -> None:
    budget = ContentMemory(max_bytes=10, renderings=1)
    async with budget.render_and_hold(lambda: 8, lambda rendered: rendered, 5.0):
        for _ in range(2):
            with pytest.raises(LogUnavailable):
                async with budget.render_and_hold(lambda: 3, lambda rendered: rendered, 0.01):
                    pass
    async with budget.render_and_hold(lambda: 10, lambda rendered: rendered, 5.0) as rendered:
        assert rendered == 10


async def test_failed_rendering_releases_its_slot() -> None:
    budget = ContentMemory(renderings=1)
    for _ in range(2):
        with pytest.raises(Refused):
            async with budget.render_and_hold(_refuse, lambda _: 0, 1.0):
                pass


def _refuse() -> int:
    raise Refused("no")
