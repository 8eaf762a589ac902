"""Response headers that the application, its routes and the HTTP connections share."""

from collections.abc import Mapping
from typing import Final

SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Headers of every response that does not set them itself."""
NO_STORE_HEADERS: Final = {
    "Cache-Control": "no-store, no-cache, must-revalidate, private, max-age=0",
    "Pragma": "no-cache",
}
"""Headers of responses that no cache may keep."""
RETRY_SOON: Final = {"Retry-After": "2"}
"""Headers of a 503: nothing was accepted, or the outcome is unknown; such failures usually last a few seconds."""

AsgiHeaders = list[tuple[bytes, bytes]]


def asgi_headers(*mappings: Mapping[str, str]) -> AsgiHeaders:
    """Return headers in ASGI's form; of two with the same name the later one counts."""
    merged = {name.lower(): value for headers in mappings for name, value in headers.items()}
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in merged.items()]
