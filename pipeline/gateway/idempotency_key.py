"""A request's `Idempotency-Key` -> the ids of its message and its emails: the same key, the same ids."""

from typing import Final

import msgspec
from fastapi import Request

from pipeline.gateway.problems import Problem
from pipeline.runtime.ports import NewId
from topics import ids
from topics.record import EmailId

HEADER: Final = "Idempotency-Key"
LONGEST: Final = 255


class Message(msgspec.Struct, frozen=True):
    """One message's ids."""

    identity: str
    """The caller's key; empty where there was none, and then a repeat is another message."""
    message_id: str
    email_ids: tuple[EmailId, ...]


def message(request: Request, tenant: str, dialect: str, recipients: int, new_id: NewId) -> Message:
    """The ids of a message to so many. Raises Problem for a key that is none."""
    key = _key(request)
    if not key:
        return Message("", new_id(), tuple(EmailId(new_id()) for _ in range(recipients)))
    emails = tuple(ids.email_id(tenant, dialect, key, nth) for nth in range(recipients))
    return Message(key, ids.message_id(tenant, dialect, key), emails)


def _key(request: Request) -> str:
    key: str = request.headers.get(HEADER, "")
    if len(key) > LONGEST or not key.isprintable():
        raise Problem(400, f"at most {LONGEST} printable characters", HEADER)
    return key.strip()
