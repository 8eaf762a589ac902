"""API keys in, short-lived tokens that stand for them out, and back. Stateless: the key's end is its tokens' end."""

from typing import Final, Literal

from pipeline.errors import InvalidSignatureError
from pipeline.runtime.signing import Signer, sign_token, verify_token
from topics.record import Millis

TokenKind = Literal["access", "refresh"]
TOKEN_PREFIX: Final = "mft_"  # noqa: S105 - what every token begins with
TOKEN_TTL_S: Final[dict[TokenKind, int]] = {"access": 3600, "refresh": 30 * 86_400}
_PAYLOAD_BYTES: Final = 8 + 32
"""The end of its time and the key's SHA-256."""


class ExpiredToken(InvalidSignatureError):
    """The token was ours, and its time is over."""


def issue_token(signer: Signer, kind: TokenKind, key_hash: bytes, now: Millis) -> str:
    """A token for the key with this hash; nothing of the key itself is in it."""
    payload = (now // 1000 + TOKEN_TTL_S[kind]).to_bytes(8, "big") + key_hash
    return TOKEN_PREFIX + sign_token(signer, kind.encode(), payload)


def verify_oauth_token(signer: Signer, kind: TokenKind, token: str, now: Millis) -> bytes:
    """The hash of the key that a token stands for. Raises Forged, and Expired where it once was good."""
    try:
        payload = verify_token(signer, kind.encode(), token.removeprefix(TOKEN_PREFIX), _PAYLOAD_BYTES)
    except InvalidSignatureError:
        # Clients of the token endpoint read this text.
        raise InvalidSignatureError("not a token of ours") from None
    if int.from_bytes(payload[:8], "big") <= now // 1000:
        raise ExpiredToken
    return payload[8:]
