"""API keys in, short-lived tokens that stand for them out, and back. Stateless: the key's end is its tokens' end."""

import base64
from typing import Final, Literal

from pipeline.errors import Forged
from pipeline.runtime.signing import TAG_BYTES, Signer
from topics.record import Millis

Kind = Literal["access", "refresh"]
PREFIX: Final = "mft_"
LASTS_S: Final[dict[Kind, int]] = {"access": 3600, "refresh": 30 * 86_400}
_HASH: Final = 32
_LENGTH: Final = TAG_BYTES + 8 + _HASH


class Expired(Forged):
    """The token was ours, and its time is over."""


def issue(signer: Signer, kind: Kind, key_hash: bytes, now: Millis) -> str:
    """A token for the key with this hash; nothing of the key itself is in it."""
    payload = (now // 1000 + LASTS_S[kind]).to_bytes(8, "big") + key_hash
    return PREFIX + base64.urlsafe_b64encode(signer.tag(kind.encode() + payload) + payload).decode().rstrip("=")


def read(signer: Signer, kind: Kind, token: str, now: Millis) -> bytes:
    """The hash of the key that a token stands for. Raises Forged, and Expired where it once was good."""
    text = token.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise Forged("not a token of ours") from None
    tag, payload = raw[:TAG_BYTES], raw[TAG_BYTES:]
    if len(raw) != _LENGTH or not signer.verify(kind.encode() + payload, tag):
        raise Forged("not a token of ours")
    if int.from_bytes(payload[:8], "big") <= now // 1000:
        raise Expired
    return payload[8:]
