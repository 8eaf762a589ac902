"""Ids of a message and its emails, derived from the request's `Idempotency-Key`: the same key gives the same ids.

The routes that accept one message per request use it; see `idempotency.py` for the check of its contents.
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
    """The ids of one message and its emails."""

    identity: str
    """The caller's key; empty if the request had none, and then a repeated request is another message."""
    message_id: str
    email_ids: tuple[EmailId, ...]


def message_ids(request: Request, tenant: str, dialect: str, recipients: int, new_id: NewId) -> MessageIds:
    """Return the ids of a message to ``recipients`` addresses. Raise HttpProblem 400 if the key is invalid."""
    key = _key(request)
    if not key:
        return MessageIds("", new_id(), tuple(EmailId(new_id()) for _ in range(recipients)))
    emails = tuple(ids.email_id(tenant, dialect, key, index) for index in range(recipients))
    return MessageIds(key, ids.message_id(tenant, dialect, key), emails)


def _key(request: Request) -> str:
    key: str = request.headers.get(IDEMPOTENCY_KEY_HEADER, "")
    if len(key) > KEY_MAX_CHARS or not key.isprintable():
        raise HttpProblem(400, f"at most {KEY_MAX_CHARS} printable characters", IDEMPOTENCY_KEY_HEADER)
    return key.strip()
