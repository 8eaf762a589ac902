"""Make the TokenReaders that verify our tokens with every secret of the installation.

The worker, the inbound mail listener and `mailfold renormalize` call it.
"""

import functools
from collections.abc import Callable

from pipeline.content import tokens
from pipeline.errors import InvalidSignatureError
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import Signer
from pipeline.webhooks.base import TokenReader, TokenReaders
from topics.record import EmailId


def token_readers(ring: SecretRing) -> TokenReaders:
    """Return readers of the tokens in our messages, signed with any secret of the ring."""
    return TokenReaders(
        message_id=_token_reader(tokens.read_message_id, Signer(ring, "message-id")),
        verp=_token_reader(tokens.read_verp_address, Signer(ring, "verp")),
        unsubscribe=_token_reader(tokens.read_unsubscribe_address, Signer(ring, "unsubscribe")),
        is_echo_tag=functools.partial(tokens.is_echo_tag, Signer(ring, "echo")),
    )


def _token_reader(read: Callable[[Signer, str], EmailId], signer: Signer) -> TokenReader:
    """Return a function that returns None where ``read`` raises."""

    def read_token(text: str) -> EmailId | None:
        try:
            return read(signer, text)
        except InvalidSignatureError:
            return None

    return read_token
