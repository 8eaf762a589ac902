"""Read bodies of HTTP responses up to a limit: from destinations, providers' APIs, and for certificates."""

from typing import Final

import aiohttp

_CHUNK_BYTES: Final = 65_536


async def read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> tuple[bytes, bool]:
    """Return the body, at most ``max_bytes`` of it, and whether it is complete.

    Of a longer body the rest is never read; its connection is closed instead of being used again.
    """
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(min(_CHUNK_BYTES, max_bytes + 1)):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            response.close()
            break
    return b"".join(parts)[:max_bytes], size <= max_bytes
