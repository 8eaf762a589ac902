"""Derive the ids of a message and its emails from a request's `Idempotency-Key`: the same key, the same ids.

The routes that send call it; a request without a key gets fresh ids.
"""

from typing import Final

import msgspec
from fastapi import Request

from pipeline.gateway.problems import HttpProblem
from pipeline.runtime.ports import NewId
from topics import ids
from topics.record import EmailId

IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"
KEY_MAX_CHARS: Final = 255


class MessageIds(msgspec.Struct, frozen=True):
    """The ids of one message and of its emails."""

    identity: str
    """The caller's key; empty if there was none, and then a repeated request is another message."""
    message_id: str
    email_ids: tuple[EmailId, ...]
    """One id per recipient, in the recipients' order."""


def message_ids(request: Request, tenant: str, dialect: str, recipients: int, new_id: NewId) -> MessageIds:
    """Return the ids of a message to that many recipients. Raises HttpProblem 400 for an invalid key."""
    key = _idempotency_key(request)
    if not key:
        return MessageIds("", new_id(), tuple(EmailId(new_id()) for _ in range(recipients)))
    email_ids = tuple(ids.email_id(tenant, dialect, key, index) for index in range(recipients))
    return MessageIds(key, ids.message_id(tenant, dialect, key), email_ids)


def _idempotency_key(request: Request) -> str:
    """Return the request's key, or "" if it has none. Raises HttpProblem 400."""
    key: str = request.headers.get(IDEMPOTENCY_KEY_HEADER, "")
    if len(key) > KEY_MAX_CHARS or not key.isprintable():
        raise HttpProblem(400, f"at most {KEY_MAX_CHARS} printable characters", IDEMPOTENCY_KEY_HEADER)
    return key.strip()
