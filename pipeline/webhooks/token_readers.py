"""Make the TokenReaders that verify our tokens with the current and the previous secret.

The worker, the inbound mail listener and `mailfold renormalize` call it.
"""

from collections.abc import Callable

from pipeline.content import tokens
from pipeline.errors import InvalidSignatureError
from pipeline.runtime.signing import Signer, signers
from pipeline.settings import Settings
from pipeline.webhooks.base import TokenReader, TokenReaders
from topics.record import EmailId


def token_readers(secret: str, previous: str = "") -> TokenReaders:
    """Return readers of the tokens in our messages, signed with either secret."""
    return TokenReaders(
        message_id=_token_reader(tokens.read_message_id, signers(secret, previous, "message-id")),
        verp=_token_reader(tokens.read_verp_address, signers(secret, previous, "verp")),
        unsubscribe=_token_reader(tokens.read_unsubscribe_address, signers(secret, previous, "unsubscribe")),
    )


def token_readers_of(settings: Settings) -> TokenReaders:
    """Return readers of the tokens signed with the secrets in the settings."""
    return token_readers(settings.secret.get_secret_value(), settings.secret_previous.get_secret_value())


def _token_reader(read: Callable[[Signer, str], EmailId], candidates: tuple[Signer, ...]) -> TokenReader:
    """Return a function that tries ``read`` with each signer in turn."""

    def read_token(text: str) -> EmailId | None:
        for signer in candidates:
            try:
                return read(signer, text)
            except InvalidSignatureError:
                continue
        return None

    return read_token
