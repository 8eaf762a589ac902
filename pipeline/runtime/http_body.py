"""Bodies of HTTP answers that others give us, read up to a bound: destinations, providers' APIs, certificates."""

from typing import Final

import aiohttp

_CHUNK_BYTES: Final = 65_536


async def read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> tuple[bytes, bool]:
    """Return the body, at most ``max_bytes`` of it, and whether that is all of it.

    What is longer costs its connection: the rest is never read.
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
