"""Which email something of ours names, by the present secret and the previous one."""

from collections.abc import Callable

from pipeline.content import tokens
from pipeline.errors import Forged
from pipeline.runtime.signing import Signer, signers
from pipeline.settings import Settings
from pipeline.webhooks.base import Finds, Proofs
from topics.record import EmailId


def proofs(secret: str, previous: str = "") -> Proofs:
    """Return what reads back that we put into messages, signed under either secret."""
    return Proofs(
        message_id=_finds(tokens.read_message_id, signers(secret, previous, "message-id")),
        verp=_finds(tokens.read_verp, signers(secret, previous, "verp")),
        unsubscribe=_finds(tokens.read_unsubscribe_address, signers(secret, previous, "unsubscribe")),
    )


def proofs_of(settings: Settings) -> Proofs:
    """Return the proofs under the settings' secrets."""
    return proofs(settings.secret.get_secret_value(), settings.secret_previous.get_secret_value())


def _finds(read: Callable[[Signer, str], EmailId], keys: tuple[Signer, ...]) -> Finds:
    def find(text: str) -> EmailId | None:
        for signer in keys:
            try:
                return read(signer, text)
            except Forged:
                continue
        return None

    return find
