"""Issue and verify the short-lived tokens that stand for API keys in Extra Horizon's API.

Called by the routes of `/auth/v2` and `/mail/v1`. Stateless: a token holds its expiry time and the hash of its
key, so it is worth nothing once the key is revoked or has expired, and has the key's scopes.
"""

from typing import Final, Literal

from pipeline.errors import InvalidSignatureError
from pipeline.runtime.secrets.signing import Signer, sign_token, verify_token
from topics.record import Millis

TokenKind = Literal["access", "refresh"]
TOKEN_PREFIX: Final = "mft_"  # noqa: S105 - the first characters of every token
TOKEN_TTL_S: Final[dict[TokenKind, int]] = {"access": 3600, "refresh": 30 * 86_400}
_PAYLOAD_BYTES: Final = 8 + 32
"""Size of the expiry time in seconds since the Unix epoch, and of the key's SHA-256."""


class ExpiredToken(InvalidSignatureError):
    """The token is one of ours, but has expired."""


def lifetime_s(kind: TokenKind, now: Millis, ends_at: int | None = None) -> int:
    """Return the seconds that a token lasts; ``ends_at``: the time in seconds at which its API key expires."""
    ttl_s = TOKEN_TTL_S[kind]
    return ttl_s if ends_at is None else max(0, min(ttl_s, ends_at - now // 1000))


def issue_token(signer: Signer, kind: TokenKind, key_hash: bytes, now: Millis, ends_at: int | None = None) -> str:
    """Return a token for the API key with this hash; the key itself can't be derived from it.

    ``ends_at``: the time in seconds at which the API key expires.
    """
    payload = (now // 1000 + lifetime_s(kind, now, ends_at)).to_bytes(8, "big") + key_hash
    return TOKEN_PREFIX + sign_token(signer, kind.encode(), payload)


def verify_oauth_token(signer: Signer, kind: TokenKind, token: str, now: Millis) -> bytes:
    """Return the hash of the API key that the token stands for.

    Raises ExpiredToken for a token of ours that has expired, InvalidSignatureError for any other text.
    """
    try:
        payload = verify_token(signer, kind.encode(), token.removeprefix(TOKEN_PREFIX), _PAYLOAD_BYTES)
    except InvalidSignatureError:
        # The message is part of the API: the token endpoint returns it to clients.
        raise InvalidSignatureError("not a token of ours") from None
    if int.from_bytes(payload[:8], "big") <= now // 1000:
        raise ExpiredToken
    return payload[8:]
