"""Reading of request bodies, also gzipped ones, within limits on size, time and memory; all routes call it."""

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
from pipeline.gateway.body_memory import BodyMemory, BodyShare
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.problems import HttpProblem

T = TypeVar("T")

BODY_TIMEOUT_S: Final = 60.0
"""Seconds for a whole body where no setting says otherwise: a slow sender occupies a connection and memory."""
UNZIP_STEP_BYTES: Final = 4_000_000
"""Bytes that one call in a thread unzips."""
OWNER_SCOPE_KEY: Final = "mailfold.owner"
"""Key in a request's scope: the owner of its body's bytes, once known; until then its address is the owner."""
_BODY_SHARE_SCOPE_KEY: Final = "mailfold.body_share"
_GZIP_WINDOW_BITS: Final = 16 + zlib.MAX_WBITS
_MAX_DEFLATE_RATIO: Final = 1032
"""Bytes that one byte of deflate data can unzip to at most (https://zlib.net/zlib_tech.html)."""
_DRAIN_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True)
class BodyLimits:
    """Limits on one gateway's request bodies; kept in the application's state."""

    memory: BodyMemory
    timeout_s: float
    address: Callable[[Scope], str]
    """Returns the client's address of a request."""


def release_body(scope: Scope) -> None:
    """Release the bytes that a request's body holds; called when the request has ended."""
    share = scope.pop(_BODY_SHARE_SCOPE_KEY, None)
    if isinstance(share, BodyShare):
        share.release_all()


async def read_body(request: Request, limit: int) -> bytes:
    """Return a body of at most ``limit`` bytes, unzipped if it is gzipped.

    Raise HttpProblem: 400, 408, 413, 415 or 503.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise HttpProblem(415, "only gzip, or none", "Content-Encoding", {"Accept-Encoding": "gzip, identity"})
    raw = await read_raw_body(request, limit)
    return raw if encoding == "identity" else await _unzip_in_steps(request, raw, limit)


def decode_body(decode: Callable[[bytes], T], body: bytes) -> T:
    """Return the decoded body of a request to one of our own APIs. Raise Refused if it is invalid."""
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), "body") from None
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


async def read_raw_body(request: Request, limit: int) -> bytes:
    """Return a body of at most ``limit`` bytes as it was sent. Raise HttpProblem: 400, 408, 413 or 503."""
    content_length = request.headers.get("content-length", "")
    declared = int(content_length) if content_length.isdecimal() and len(content_length) < 20 else 0
    if declared > limit:
        raise await _after_draining(request, limit, _too_large(limit))
    limits = _limits(request)
    timeout_s = limits.timeout_s if limits else BODY_TIMEOUT_S
    body = bytearray()
    reserved = await _reserve(request, declared, limit)
    try:
        async with asyncio.timeout(timeout_s):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise await _after_draining(request, limit, _too_large(limit))
                if len(body) > reserved and not await _take(request, min(len(piece), len(body) - reserved)):
                    body.clear()
                    raise await _after_draining(request, limit, _refuse_for_memory(request))
    except TimeoutError:
        raise HttpProblem(408, f"the body took over {timeout_s:g} s", "body", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HttpProblem(400, "the body ended early", "body") from None
    return bytes(body)


async def _reserve(request: Request, declared: int, limit: int) -> int:
    """Count the declared bytes of a tenant's or provider's body before they arrive; return how many were counted.

    If several large bodies of one owner were counted as they grow, each would take a part of the owner's share and
    none would get the rest. Undeclared bodies, and those of unknown clients, are counted as they arrive.
    """
    if OWNER_SCOPE_KEY not in request.scope:
        return 0
    if declared and not await _take(request, declared):
        raise await _after_draining(request, limit, _refuse_for_memory(request))
    return declared


class _BoundedGunzip:
    """A gzip decoder that stops after ``limit`` bytes: a body of a few kB may unzip to gigabytes."""

    def __init__(self, raw: bytes, limit: int) -> None:
        self._inflate = zlib.decompressobj(_GZIP_WINDOW_BITS)
        self._rest = raw
        self._limit = limit
        self.size = 0

    def step(self, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` bytes more; empty at the end. Raise HttpProblem: 400 or 413."""
        if self._inflate.eof:
            return b""
        try:
            piece = self._inflate.decompress(self._rest, max_bytes)
        except zlib.error:
            raise HttpProblem(400, "not gzip", "body") from None
        self._rest = self._inflate.unconsumed_tail
        self.size += len(piece)
        if self.size > self._limit:
            raise HttpProblem(413, f"over {self._limit} bytes when unzipped", "body")
        return piece

    def check_end(self) -> None:
        """Raise HttpProblem 400 unless the data ended with the end of a gzip member."""
        if not self._inflate.eof or self._inflate.unused_data:
            raise HttpProblem(400, "gzip that is cut off, or followed by something else", "body")


def unzip(raw: bytes, limit: int) -> bytes:
    """Return the unzipped bytes, at most ``limit``. Raise HttpProblem: 400 or 413."""
    gunzip = _BoundedGunzip(raw, limit)
    body = gunzip.step(limit + 1)
    gunzip.check_end()
    return body


async def _unzip_in_steps(request: Request, raw: bytes, limit: int) -> bytes:
    """Unzip in a thread, step by step, and count the bytes before each step; release those of ``raw`` at the end.

    The announced size is counted at once: bodies that are counted as they grow would block each other half-way.
    """
    gunzip, pieces = _BoundedGunzip(raw, limit), []
    wanted = min(_announced_size(raw), limit) + 1
    counted = 0
    while True:
        if not counted:
            if not await _take(request, wanted):
                raise _refuse_for_memory(request)
            counted, wanted = wanted, UNZIP_STEP_BYTES
        piece = await asyncio.to_thread(gunzip.step, min(UNZIP_STEP_BYTES, limit + 1 - gunzip.size, counted))
        counted -= len(piece)
        if not piece:
            break
        pieces.append(piece)
    _release(request, counted)
    gunzip.check_end()
    _release(request, len(raw))
    return pieces[0] if len(pieces) == 1 else await asyncio.to_thread(b"".join, pieces)


def _announced_size(raw: bytes) -> int:
    """Return the unzipped size that gzip's last four bytes name (RFC 1952), at most what deflate can achieve."""
    return min(int.from_bytes(raw[-4:], "little"), len(raw) * _MAX_DEFLATE_RATIO)


def _limits(request: Request) -> BodyLimits | None:
    """Return the application's limits; None in tests that build an application without them."""
    limits = getattr(request.app.state, "bodies", None)
    return limits if isinstance(limits, BodyLimits) else None


async def _take(request: Request, size: int) -> bool:
    """Count bytes for the request's owner; return False if they did not fit in time."""
    limits = _limits(request)
    if limits is None:
        return True
    share = request.scope.get(_BODY_SHARE_SCOPE_KEY)
    if share is None:
        owner = request.scope.get(OWNER_SCOPE_KEY) or f"address {limits.address(request.scope)}"
        share = request.scope[_BODY_SHARE_SCOPE_KEY] = limits.memory.share(owner)
    return bool(await share.take(size))


def _release(request: Request, size: int) -> None:
    if (share := request.scope.get(_BODY_SHARE_SCOPE_KEY)) is not None:
        share.release(size)


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(413, f"over {limit} bytes", "body", {"Connection": "close"})


def _refuse_for_memory(request: Request) -> HttpProblem:
    """Release at once what the request holds, because others wait for it, and return the problem to raise."""
    release_body(request.scope)
    headers = {"Connection": "close", **RETRY_SOON}
    return HttpProblem(503, "too many bytes of other requests in hand; send it again", "body", headers)


async def _after_draining(request: Request, limit: int, problem: HttpProblem) -> HttpProblem:
    """Read and discard the body for a moment, ``limit`` bytes at most; return ``problem`` to be raised.

    The connection is closed after the answer, and a client whose connection is reset while it sends never reads it.
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
