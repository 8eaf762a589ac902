"""Sign and verify the headers by which `mailfold providers check` recognises our own gateway at the public URL.

The check signs its request, and the gateway signs its response. The gateway verifies a check request like any other
webhook and then discards it, so that a check leaves nothing on the log.
"""

from typing import Final

from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer

HEADER: Final = "x-mailfold-check"
MAX_AGE_MS: Final = 60_000


def signer(ring: SecretRing) -> Signer:
    """Return the Signer of both headers."""
    return Signer(ring, "check")


def request_header(check_signer: Signer, provider: str, now: int) -> str:
    """Return the header's value in a request that checks this provider's webhook; ``now`` in Unix milliseconds."""
    return f"{now}.{check_signer.tag(_signed_text(provider, now)).hex()}"


def is_check_request(check_signer: Signer, provider: str, value: str, now: int) -> bool:
    """Return whether a request's header was signed with our secret in the last minute."""
    time, _, tag = value.partition(".")
    if not (time.isascii() and time.isdigit() and len(time) <= 15) or abs(now - int(time)) > MAX_AGE_MS:
        return False
    try:
        return check_signer.verify(_signed_text(provider, int(time)), bytes.fromhex(tag))
    except ValueError:
        return False


def response_header(check_signer: Signer, value: str) -> str:
    """Return the header's value in the response to a request with ``value``; it proves that we know the secret."""
    return check_signer.tag(b"answer:" + value.encode("latin-1", "replace")).hex()


def _signed_text(provider: str, now: int) -> bytes:
    return f"ask:{provider}:{now}".encode()
