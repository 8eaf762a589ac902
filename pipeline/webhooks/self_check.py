"""`mailfold providers check` posts to our own public URL: its request's mark, and the proof that our gateway answers.

A marked request is verified as every other and then forgotten, so that a check leaves nothing on the log.
"""

from typing import Final

from pipeline.runtime.signing import Signer

HEADER: Final = "x-mailfold-check"
MAX_AGE_MS: Final = 60_000


def signer(secret: str) -> Signer:
    """For both ends."""
    return Signer(secret, "check")


def request_header(by: Signer, provider: str, now: int) -> str:
    """The header of a request that checks this provider's webhook."""
    return f"{now}.{by.tag(_asked(provider, now)).hex()}"


def is_check_request(by: Signer, provider: str, value: str, now: int) -> bool:
    """Whether this header is ours and fresh."""
    time, _, tag = value.partition(".")
    if not (time.isascii() and time.isdigit() and len(time) <= 15) or abs(now - int(time)) > MAX_AGE_MS:
        return False
    try:
        return by.verify(_asked(provider, int(time)), bytes.fromhex(tag))
    except ValueError:
        return False


def response_header(by: Signer, value: str) -> str:
    """The header of the answer: only who has the secret can say it."""
    return by.tag(b"answer:" + value.encode("latin-1", "replace")).hex()


def _asked(provider: str, now: int) -> bytes:
    return f"ask:{provider}:{now}".encode()
