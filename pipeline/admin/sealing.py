"""Tell under which secret each stored credential is sealed, and seal them anew; `mailfold secrets` calls it."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

import psycopg

from pipeline.admin.sql import SQL
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import is_sealed_under, seal, unseal

SEALED_KEY_PREFIX: Final = "sealed:"
"""What a sealed webhook key begins with; public keys of earlier versions stand there in clear."""
UNKNOWN_SOURCE: Final = "unknown"
CLEAR_TEXT: Final = "not sealed"


class _SealedColumn(NamedTuple):
    """The statements that read and write one kind of credential; the rows read begin with the key."""

    read: str
    write: str


_COLUMNS: Final = (
    _SealedColumn("sealed_passwords", "set_sealed_password"),
    _SealedColumn("sealed_webhook_keys", "set_sealed_webhook_keys"),
    _SealedColumn("sealed_destination_keys", "set_sealed_destination_key"),
    _SealedColumn("sealed_dkim_keys", "set_sealed_dkim_key"),
)


async def count_credentials(pool: Pool, ring: SecretRing) -> Counter[str]:
    """Return how many stored credentials are sealed under each secret of the ring, by id, and under unknown ones."""
    counts: Counter[str] = Counter()
    async with pool.connection() as connection, connection.transaction():
        async for _, _, values in _stored(connection):
            counts.update(_sealed_with(ring, value) for value in values)
    return counts


async def reseal_credentials(pool: Pool, ring: SecretRing) -> int:
    """Seal every stored credential under the ring's first secret; return how many were sealed otherwise.

    All or none: it is one transaction. Raise InvalidSettings if one is sealed under a secret that is not in the ring.
    """
    changed = 0
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(SQL["lock_credentials"])
        async for column, key, values in _stored(connection):
            stale = sum(_sealed_with(ring, value) != ring.signing.id for value in values)
            if stale:
                resealed = [_resealed(ring, value) for value in values]
                stored = resealed if column.write == "set_sealed_webhook_keys" else resealed[0]
                await connection.execute(SQL[column.write], (stored, *key))
            changed += stale
    return changed


async def _stored(
    connection: psycopg.AsyncConnection[Any],
) -> AsyncIterator[tuple[_SealedColumn, tuple[Any, ...], Sequence[str | bytes]]]:
    """Yield the credentials of each row with its key."""
    for column in _COLUMNS:
        for *key, value in await (await connection.execute(SQL[column.read])).fetchall():
            yield column, tuple(key), value if isinstance(value, list) else [bytes(value)]


def _sealed_with(ring: SecretRing, value: str | bytes) -> str:
    if isinstance(value, str) and not value.startswith(SEALED_KEY_PREFIX):
        return CLEAR_TEXT
    sealed = value.removeprefix(SEALED_KEY_PREFIX).encode() if isinstance(value, str) else value
    return next((each.id for each in ring.secrets if is_sealed_under(each.value, sealed)), UNKNOWN_SOURCE)


def _resealed(ring: SecretRing, value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return seal(ring, unseal(ring, value))
    return seal_webhook_key(ring, unseal_webhook_key(ring, value))


def seal_webhook_key(ring: SecretRing, key: str) -> str:
    """Return a webhook key as it is stored."""
    return SEALED_KEY_PREFIX + seal(ring, key).decode()


def unseal_webhook_key(ring: SecretRing, stored: str) -> str:
    """Return a webhook key from its stored form, which may be clear text of an earlier version."""
    if not stored.startswith(SEALED_KEY_PREFIX):
        return stored
    return unseal(ring, stored.removeprefix(SEALED_KEY_PREFIX).encode())
