"""A request's stream -> its body's bytes, bounded in size and time before it is read, unzipped likewise."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from pipeline.errors import Refused
from pipeline.gateway.problems import Problem

T = TypeVar("T")

PATIENCE_S: Final = 60.0
"""For a whole body: a sender that trickles holds a connection and memory."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_DRAIN_S: Final = 1.0


async def read_body(request: Request, limit: int) -> bytes:
    """The body as it was meant. Raises Problem: 400, 408, 413 or 415."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise Problem(415, "only gzip, or none", "Content-Encoding", {"Accept-Encoding": "gzip, identity"})
    raw = await read_raw(request, limit)
    return raw if encoding == "identity" else await asyncio.to_thread(unzip, raw, limit)


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """A body of our own APIs. Raises Refused."""
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), "body") from None
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


async def read_raw(request: Request, limit: int) -> bytes:
    """The body as it came. Raises Problem: 400, 408 or 413."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise await _too_large(request, limit)
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise await _too_large(request, limit)
    except TimeoutError:
        raise Problem(408, f"the body took over {PATIENCE_S:.0f} s", "body", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "the body ended early", "body") from None
    return bytes(body)


def unzip(raw: bytes, limit: int) -> bytes:
    """Gunzip, but never more than ``limit`` bytes: a few kB can hold gigabytes."""
    inflate = zlib.decompressobj(_GZIP)
    try:
        body = inflate.decompress(raw, limit + 1)
    except zlib.error:
        raise Problem(400, "not gzip", "body") from None
    if len(body) > limit:
        raise Problem(413, f"over {limit} bytes when unzipped", "body")
    if not inflate.eof or inflate.unused_data:
        raise Problem(400, "gzip that is cut off, or followed by something else", "body")
    return body


async def _too_large(request: Request, limit: int) -> Problem:
    """The 413. The connection ends with it; but one that is reset while it sends never reads why.

    So a moment's worth is read and thrown away, no more than the limit once again.
    """
    left = limit
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for piece in request.stream():
                left -= len(piece)
                if left <= 0:
                    break
    except (TimeoutError, ClientDisconnect, RuntimeError):
        pass
    return Problem(413, f"over {limit} bytes", "body", {"Connection": "close"})
