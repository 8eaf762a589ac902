"""The one secret in; what tells which email something of ours names, out."""

from collections.abc import Callable

from pipeline import tokens
from pipeline.errors import Forged
from pipeline.hearing.adapter import Finds, Proofs
from pipeline.signing import Signer
from topics.record import EmailId


def proofs(secret: str) -> Proofs:
    """What we put into messages, read back."""
    return Proofs(
        message_id=_finds(tokens.read_message_id, Signer(secret, "message-id")),
        verp=_finds(tokens.read_verp, Signer(secret, "verp")),
        unsubscribe=_finds(tokens.read_unsubscribe_address, Signer(secret, "unsubscribe")),
    )


def _finds(read: Callable[[Signer, str], EmailId], signer: Signer) -> Finds:
    def find(text: str) -> EmailId | None:
        try:
            return read(signer, text)
        except Forged:
            return None

    return find
