"""Room for request bodies: counted, shared out, given back."""

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
from pipeline.gateway.memory import OWNER_MIN_BYTES, BodyMemory
from pipeline.gateway.request_body import OWNER_SCOPE_KEY, BodyLimits, read_body, release_body

MB = 1_000_000


class Refused:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def memory(total: int = 100 * MB, wait_s: float = 0.01) -> BodyMemory:
    return BodyMemory(total, Refused(), wait_s)


async def test_one_owner_alone_has_half_and_more_have_equal_shares() -> None:
    room = memory()
    for owners in (1, 2, 3, 9):
        shares = [room.share(str(owner)) for owner in range(owners)]
        held = [0] * owners
        growing = True
        while growing:
            growing = False
            for owner, share in enumerate(shares):
                if await share.take(MB // 2):
                    held[owner] += MB // 2
                    growing = True
        assert max(held) - min(held) <= MB
        assert abs(sum(held) - 100 * MB * owners // (owners + 1)) <= owners * MB
        assert await room.share("another").take(OWNER_MIN_BYTES // 2)
        room.give_back("another", OWNER_MIN_BYTES // 2)
        for share in shares:
            share.release_all()
        assert room.held == 0


async def test_request_waits_for_room_and_gets_it() -> None:
    room = memory(10 * MB, wait_s=20)
    first, second = room.share("a"), room.share("a")
    assert await first.take(5 * MB)
    waiting = asyncio.create_task(second.take(5 * MB))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    first.release_all()
    assert await waiting


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=60))
def test_never_more_than_all_is_in_hand_and_all_comes_back(asked: list[tuple[int, int]]) -> None:
    async def run() -> None:
        room = BodyMemory(50 * MB, Refused(), 0)
        shares = [room.share(str(owner)) for owner in range(5)]
        for owner, size in asked:
            await shares[owner].take(size * MB)
            assert room.held <= 50 * MB
        for share in shares:
            share.release_all()
        assert room.held == 0

    asyncio.run(run())


def application(room: BodyMemory, inside: list[int], limit: int = 20 * MB, owner: str = "") -> Any:
    app = FastAPI()
    problems.install_error_handlers(app, {})
    app.state.bodies = BodyLimits(room, 5, lambda _: "here")

    @app.post("/")
    async def take(request: Request) -> dict[str, int]:
        body = await read_body(request, limit)
        inside.append(room.held)
        return {"size": len(body)}

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        if owner:
            scope[OWNER_SCOPE_KEY] = owner
        try:
            await app(scope, receive, send)
        finally:
            release_body(scope)

    return whole


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here")


@pytest.mark.parametrize("size", [0, 10, request_body.UNZIP_STEP_BYTES, 3 * request_body.UNZIP_STEP_BYTES + 1, 20 * MB])
async def test_unzipped_bytes_are_in_hand_until_the_request_ends(size: int) -> None:
    room, inside = memory(), list[int]()
    async with client(application(room, inside)) as http:
        zipped = gzip.compress(b"x" * size)
        answer = await http.post("/", content=zipped, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()) == (200, {"size": size})
    assert (inside, room.held) == ([size], 0)


async def test_small_gzip_that_becomes_large_finds_room_first() -> None:
    room, inside = memory(), list[int]()
    zipped = gzip.compress(b"x" * 20 * MB)
    other = room.share("somebody")
    assert await other.take(40 * MB)
    async with client(application(room, inside)) as http:
        send = [http.post("/", content=zipped, headers={"Content-Encoding": "gzip"}) for _ in range(8)]
        answers = await asyncio.gather(*send)
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert statuses[-1] == 503
        assert {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503} == {"2"}
        other.release_all()
        assert room.held == 0
        assert (await http.post("/", content=zipped, headers={"Content-Encoding": "gzip"})).status_code == 200


async def pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // MB):
        yield b"x" * MB
        await asyncio.sleep(0)


@pytest.mark.parametrize("owner", ["", "tenant acme"])
async def test_large_bodies_that_grow_beside_each_other_do_not_all_fail(owner: str) -> None:
    room, inside = memory(wait_s=20 if owner else 0.5), list[int]()
    async with client(application(room, inside, owner=owner)) as http:
        headers = {"Content-Length": str(20 * MB)}
        answers = await asyncio.gather(*[http.post("/", content=pieces(20 * MB), headers=headers) for _ in range(8)])
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {200, 503}
        # A tenant's wait for each other without holding anything; strangers' make room for those that still wait.
        assert statuses.count(200) >= (8 if owner else 1), statuses
    assert room.held == 0


async def test_small_gzip_needs_no_more_room_than_it_becomes() -> None:
    room, inside = memory(), list[int]()
    others = [room.share(str(nth)) for nth in range(30)]
    for other in others:
        while room.held < 97 * MB and await other.take(MB):
            pass
    assert room.held == 97 * MB
    async with client(application(room, inside)) as http:
        answer = await http.post("/", content=gzip.compress(b"x" * 1000), headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()) == (200, {"size": 1000})
    assert (inside, room.held) == ([97 * MB + 1000], 97 * MB)


@pytest.mark.parametrize("told", [0, 10, 2**32 - 1])
async def test_gzip_that_tells_a_wrong_size_is_no_gzip(told: int) -> None:
    room, inside = memory(), list[int]()
    zipped = gzip.compress(b"x" * 5 * MB)[:-4] + told.to_bytes(4, "little")
    async with client(application(room, inside)) as http:
        answer = await http.post("/", content=zipped, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]) == (400, "not gzip")
    assert (inside, room.held) == ([], 0)
