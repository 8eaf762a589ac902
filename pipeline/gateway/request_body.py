"""A request's stream -> its body's bytes, bounded in size, time and memory before it is read, unzipped likewise."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from pipeline.errors import Refused
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.memory import BodyMemory, BodyShare
from pipeline.gateway.problems import HttpProblem

T = TypeVar("T")

BODY_TIMEOUT_S: Final = 60.0
"""For a whole body, where no setting says otherwise: a sender that trickles holds a connection and memory."""
UNZIP_STEP_BYTES: Final = 4_000_000
"""Unzipped at once, in a thread."""
OWNER_SCOPE_KEY: Final = "mailfold.owner"
"""In a request's scope: who holds its body's bytes, once that is known; the address it came from until then."""
_BODY_SHARE_SCOPE_KEY: Final = "mailfold.body_share"
_GZIP_WINDOW_BITS: Final = 16 + zlib.MAX_WBITS
_MAX_DEFLATE_RATIO: Final = 1032
"""Deflate makes at most so many bytes of one."""
_DRAIN_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True)
class BodyLimits:
    """Limits on one gateway's request bodies; kept in the application's state."""

    memory: BodyMemory
    timeout_s: float
    address: Callable[[Scope], str]
    """Where a request comes from."""


def release_body(scope: Scope) -> None:
    """Give back the room that a request's body took; called when the request has ended."""
    share = scope.pop(_BODY_SHARE_SCOPE_KEY, None)
    if isinstance(share, BodyShare):
        share.release_all()


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body as it was meant. Raise Problem: 400, 408, 413, 415 or 503."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise HttpProblem(415, "only gzip, or none", "Content-Encoding", {"Accept-Encoding": "gzip, identity"})
    raw = await read_raw_body(request, limit)
    return raw if encoding == "identity" else await _unzipped(request, raw, limit)


def decode_body(decode: Callable[[bytes], T], body: bytes) -> T:
    """A body of our own APIs. Raises Refused."""
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), "body") from None
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


async def read_raw_body(request: Request, limit: int) -> bytes:
    """Return the body as it came. Raise Problem: 400, 408, 413 or 503."""
    text = request.headers.get("content-length", "")
    declared = int(text) if text.isdecimal() and len(text) < 20 else 0
    if declared > limit:
        raise await _after_draining(request, limit, _too_large(limit))
    limits = _limits(request)
    timeout_s = limits.timeout_s if limits else BODY_TIMEOUT_S
    body = bytearray()
    reserved = await _reserved(request, declared, limit)
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise await _after_draining(request, limit, _too_large(limit))
                if len(body) > reserved and not await _take(request, min(len(piece), len(body) - reserved)):
                    body.clear()
                    raise await _after_draining(request, limit, _no_room(request))
    except TimeoutError:
        raise HttpProblem(408, f"the body took over {timeout_s:g} s", "body", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HttpProblem(400, "the body ended early", "body") from None
    return bytes(body)


async def _reserved(request: Request, declared: int, limit: int) -> int:
    """Return how many bytes of a body are counted before they come: all, where a tenant or a provider announced them.

    Large bodies of one owner that grow beside each other would each take a part of its share, and none would find
    room for its end. What nobody announced, and what comes from strangers, is counted as it comes.
    """
    if OWNER_SCOPE_KEY not in request.scope:
        return 0
    if declared and not await _take(request, declared):
        raise await _after_draining(request, limit, _no_room(request))
    return declared


class _BoundedGunzip:
    """Unzips piece by piece, but never more than ``limit`` bytes: a few kB can hold gigabytes."""

    def __init__(self, raw: bytes, limit: int) -> None:
        self._inflate = zlib.decompressobj(_GZIP_WINDOW_BITS)
        self._rest = raw
        self._limit = limit
        self.size = 0

    def step(self, most: int) -> bytes:
        """Return up to ``most`` bytes more; empty at the end. Raise Problem: 400 or 413."""
        if self._inflate.eof:
            return b""
        try:
            piece = self._inflate.decompress(self._rest, most)
        except zlib.error:
            raise HttpProblem(400, "not gzip", "body") from None
        self._rest = self._inflate.unconsumed_tail
        self.size += len(piece)
        if self.size > self._limit:
            raise HttpProblem(413, f"over {self._limit} bytes when unzipped", "body")
        return piece

    def check_end(self) -> None:
        """Raise Problem 400 unless it ended where it should."""
        if not self._inflate.eof or self._inflate.unused_data:
            raise HttpProblem(400, "gzip that is cut off, or followed by something else", "body")


def unzip(raw: bytes, limit: int) -> bytes:
    """Gunzip, but never more than ``limit`` bytes. Raise Problem: 400 or 413."""
    gunzip = _BoundedGunzip(raw, limit)
    body = gunzip.step(limit + 1)
    gunzip.check_end()
    return body


async def _unzipped(request: Request, raw: bytes, limit: int) -> bytes:
    """Gunzip step by step off the loop, with room found beforehand; give back the room of ``raw``.

    Room for the announced size is found at once: bodies that grow beside each other would stop each other half-way.
    """
    gunzip, pieces = _BoundedGunzip(raw, limit), []
    wanted = min(_announced(raw), limit) + 1
    room = 0
    while True:
        if not room:
            if not await _take(request, wanted):
                raise _no_room(request)
            room, wanted = wanted, UNZIP_STEP_BYTES
        piece = await asyncio.to_thread(gunzip.step, min(UNZIP_STEP_BYTES, limit + 1 - gunzip.size, room))
        room -= len(piece)
        if not piece:
            break
        pieces.append(piece)
    _give_back(request, room)
    gunzip.check_end()
    _give_back(request, len(raw))
    return pieces[0] if len(pieces) == 1 else await asyncio.to_thread(b"".join, pieces)


def _announced(raw: bytes) -> int:
    """Return the size that gzip's last four bytes tell (RFC 1952), as far as so many bytes can become as many."""
    return min(int.from_bytes(raw[-4:], "little"), len(raw) * _MAX_DEFLATE_RATIO)


def _limits(request: Request) -> BodyLimits | None:
    """Return the application's limits; an application of a test's own may have none."""
    found = getattr(request.app.state, "bodies", None)
    return found if isinstance(found, BodyLimits) else None


async def _take(request: Request, size: int) -> bool:
    limits = _limits(request)
    if limits is None:
        return True
    share = request.scope.get(_BODY_SHARE_SCOPE_KEY)
    if share is None:
        owner = request.scope.get(OWNER_SCOPE_KEY) or f"address {limits.address(request.scope)}"
        share = request.scope[_BODY_SHARE_SCOPE_KEY] = limits.memory.share(owner)
    return bool(await share.take(size))


def _give_back(request: Request, size: int) -> None:
    if (share := request.scope.get(_BODY_SHARE_SCOPE_KEY)) is not None:
        share.give_back(size)


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(413, f"over {limit} bytes", "body", {"Connection": "close"})


def _no_room(request: Request) -> HttpProblem:
    """Return the problem, and give back at once what the request holds: others wait for it."""
    release_body(request.scope)
    headers = {"Connection": "close", **RETRY_SOON}
    return HttpProblem(503, "too many bytes of other requests in hand; send it again", "body", headers)


async def _after_draining(request: Request, limit: int, problem: HttpProblem) -> HttpProblem:
    """Return the problem. The connection ends with it; but one that is reset while it sends never reads why.

    So a moment's worth is read and thrown away, no more than the limit once again.
    """
    left = limit
    try:
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            async for piece in request.stream():
                left -= len(piece)
                if left <= 0:
                    break
    except (TimeoutError, ClientDisconnect, RuntimeError):
        pass
    return problem
