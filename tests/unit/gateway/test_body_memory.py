"""Unit tests of the limit on the memory of request bodies: it is counted, shared fairly and released."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gateway import problems, request_body
from pipeline.gateway.body_memory import OWNER_MIN_BYTES, BodyMemory
from pipeline.gateway.request_body import OWNER_SCOPE_KEY, BodyLimits, read_body, release_body

MB = 1_000_000


class RefusalCounter:
    """A callback that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def make_memory(total: int = 100 * MB, wait_s: float = 0.01) -> BodyMemory:
    return BodyMemory(total, RefusalCounter(), wait_s)


async def test_single_owner_gets_half_and_several_get_equal_shares() -> None:
    memory = make_memory()
    for owners in (1, 2, 3, 9):
        shares = [memory.share(str(owner)) for owner in range(owners)]
        held = [0] * owners
        is_growing = True
        while is_growing:
            is_growing = False
            for owner, share in enumerate(shares):
                if await share.take(MB // 2):
                    held[owner] += MB // 2
                    is_growing = True
        assert max(held) - min(held) <= MB
        assert abs(sum(held) - 100 * MB * owners // (owners + 1)) <= owners * MB
        assert await memory.share("another").take(OWNER_MIN_BYTES // 2)
        memory.release("another", OWNER_MIN_BYTES // 2)
        for share in shares:
            share.release_all()
        assert memory.held == 0


async def test_request_waits_until_bytes_are_released() -> None:
    memory = make_memory(10 * MB, wait_s=20)
    first, second = memory.share("a"), memory.share("a")
    assert await first.take(5 * MB)
    waiting = asyncio.create_task(second.take(5 * MB))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    first.release_all()
    assert await waiting


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=60))
def test_held_bytes_never_exceed_the_total_and_are_all_released(requests: list[tuple[int, int]]) -> None:
    async def run() -> None:
        memory = BodyMemory(50 * MB, RefusalCounter(), 0)
        shares = [memory.share(str(owner)) for owner in range(5)]
        for owner, size in requests:
            await shares[owner].take(size * MB)
            assert memory.held <= 50 * MB
        for share in shares:
            share.release_all()
        assert memory.held == 0

    asyncio.run(run())


def application(memory: BodyMemory, held_bytes: list[int], limit: int = 20 * MB, owner: str = "") -> Any:
    app = FastAPI()
    problems.install_error_handlers(app, {})
    app.state.bodies = BodyLimits(memory, 5, lambda _: "here")

    @app.post("/")
    async def take(request: Request) -> dict[str, int]:
        body = await read_body(request, limit)
        held_bytes.append(memory.held)
        return {"size": len(body)}

    async def with_owner(scope: Any, receive: Any, send: Any) -> None:
        if owner:
            scope[OWNER_SCOPE_KEY] = owner
        try:
            await app(scope, receive, send)
        finally:
            release_body(scope)

    return with_owner


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here")


@pytest.mark.parametrize("size", [0, 10, request_body.UNZIP_STEP_BYTES, 3 * request_body.UNZIP_STEP_BYTES + 1, 20 * MB])
async def test_unzipped_bytes_are_held_until_the_request_ends(size: int) -> None:
    memory, held_bytes = make_memory(), list[int]()
    async with client(application(memory, held_bytes)) as http:
        zipped = gzip.compress(b"x" * size)
        answer = await http.post("/", content=zipped, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()) == (200, {"size": size})
    assert (held_bytes, memory.held) == ([size], 0)


async def test_gzip_is_unzipped_only_after_its_unzipped_size_is_counted() -> None:
    memory, held_bytes = make_memory(), list[int]()
    zipped = gzip.compress(b"x" * 20 * MB)
    other = memory.share("somebody")
    assert await other.take(40 * MB)
    async with client(application(memory, held_bytes)) as http:
        send = [http.post("/", content=zipped, headers={"Content-Encoding": "gzip"}) for _ in range(8)]
        answers = await asyncio.gather(*send)
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert statuses[-1] == 503
        assert {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503} == {"2"}
        other.release_all()
        assert memory.held == 0
        assert (await http.post("/", content=zipped, headers={"Content-Encoding": "gzip"})).status_code == 200


async def body_pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MB):
        yield b"x" * MB
        await asyncio.sleep(0)


@pytest.mark.parametrize("owner", ["", "tenant acme"])
async def test_concurrent_large_bodies_do_not_all_fail(owner: str) -> None:
    memory, held_bytes = make_memory(wait_s=20 if owner else 0.5), list[int]()
    async with client(application(memory, held_bytes, owner=owner)) as http:
        headers = {"Content-Length": str(20 * MB)}
        answers = await asyncio.gather(
            *[http.post("/", content=body_pieces(20 * MB), headers=headers) for _ in range(8)]
        )
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {200, 503}
        # A tenant's bodies wait without holding bytes; an unknown client's release theirs when they are refused.
        assert statuses.count(200) >= (8 if owner else 1), statuses
    assert memory.held == 0


async def test_small_gzip_needs_no_more_bytes_than_its_unzipped_size() -> None:
    memory, held_bytes = make_memory(), list[int]()
    others = [memory.share(str(index)) for index in range(30)]
    for other in others:
        while memory.held < 97 * MB and await other.take(MB):
            pass
    assert memory.held == 97 * MB
    async with client(application(memory, held_bytes)) as http:
        answer = await http.post("/", content=gzip.compress(b"x" * 1000), headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()) == (200, {"size": 1000})
    assert (held_bytes, memory.held) == ([97 * MB + 1000], 97 * MB)


@pytest.mark.parametrize("announced", [0, 10, 2**32 - 1])
async def test_gzip_with_a_wrong_announced_size_is_refused(announced: int) -> None:
    memory, held_bytes = make_memory(), list[int]()
    zipped = gzip.compress(b"x" * 5 * MB)[:-4] + announced.to_bytes(4, "little")
    async with client(application(memory, held_bytes)) as http:
        answer = await http.post("/", content=zipped, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]) == (400, "not gzip")
    assert (held_bytes, memory.held) == ([], 0)
