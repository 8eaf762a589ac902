"""Headers that answers carry: what none goes without, and what keeps one from being kept."""

from collections.abc import Mapping
from typing import Final

SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""On every answer, unless it says otherwise itself."""
NO_STORE_HEADERS: Final = {
    "Cache-Control": "no-store, no-cache, must-revalidate, private, max-age=0",
    "Pragma": "no-cache",
}
"""For what must be asked for anew each time."""
RETRY_SOON: Final = {"Retry-After": "2"}
"""On a 503: nothing was taken, or nobody knows, and what is missing is usually back within seconds."""

AsgiHeaders = list[tuple[bytes, bytes]]


def asgi_headers(*some: Mapping[str, str]) -> AsgiHeaders:
    """Headers as ASGI wants them; of two with one name the later counts."""
    merged = {name.lower(): value for headers in some for name, value in headers.items()}
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in merged.items()]
