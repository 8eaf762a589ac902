"""Which email something of ours names, by the present secret and the previous one."""

from collections.abc import Callable

from pipeline.content import tokens
from pipeline.errors import InvalidSignatureError
from pipeline.runtime.signing import Signer, signers
from pipeline.settings import Settings
from pipeline.webhooks.base import TokenReader, TokenReaders
from topics.record import EmailId


def token_readers(secret: str, previous: str = "") -> TokenReaders:
    """Return what reads back that we put into messages, signed under either secret."""
    return TokenReaders(
        message_id=_finds(tokens.read_message_id, signers(secret, previous, "message-id")),
        verp=_finds(tokens.read_verp_address, signers(secret, previous, "verp")),
        unsubscribe=_finds(tokens.read_unsubscribe_address, signers(secret, previous, "unsubscribe")),
    )


def token_readers_of(settings: Settings) -> TokenReaders:
    """Return the proofs under the settings' secrets."""
    return token_readers(settings.secret.get_secret_value(), settings.secret_previous.get_secret_value())


def _finds(read: Callable[[Signer, str], EmailId], keys: tuple[Signer, ...]) -> TokenReader:
    def find(text: str) -> EmailId | None:
        for signer in keys:
            try:
                return read(signer, text)
            except InvalidSignatureError:
                continue
        return None

    return find
