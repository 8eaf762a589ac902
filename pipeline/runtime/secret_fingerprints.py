"""Refuse to work with secrets that are not this database's: links would break and suppressions silently stop to count.

Every role calls it at its start, `mailfold secrets` on request. Postgres holds fingerprints, never a secret.
"""

from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from pipeline.errors import InvalidSettings
from pipeline.runtime.database import Pool
from pipeline.runtime.secret_ring import SecretRing
from projections.sql import SqlQueries

SIGNING: Final = "signing"
ADDRESSES: Final = "addresses"
_SQL: Final = SqlQueries(Path(__file__).with_name("secrets.sql"))
_ADVICE: Final = (
    "use the secrets of the other roles; if they are lost, `mailfold secrets accept` (docs/how-to/rotate-secrets.md)"
)


class SecretFingerprint(NamedTuple):
    """A secret's fingerprint and what the secret is for."""

    purpose: str
    fingerprint: str


def fingerprints_of(ring: SecretRing) -> list[SecretFingerprint]:
    """Return the fingerprints of a ring: of each secret that signs or signed, and of the one for addresses."""
    signing = [SecretFingerprint(SIGNING, secret.fingerprint) for secret in ring.secrets]
    return [*signing, SecretFingerprint(ADDRESSES, ring.address.fingerprint)]


async def known_fingerprints(pool: Pool) -> list[SecretFingerprint]:
    """Return the fingerprints of all secrets that the database was used with, oldest first."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(_SQL["known"])).fetchall()
    return [SecretFingerprint(*row) for row in rows]


async def check_secrets(pool: Pool, ring: SecretRing) -> None:
    """Remember the secrets of a ring. Raise InvalidSettings for a ring that is not this database's.

    It is the database's if one of its secrets signed before and if its secret for addresses is the same as ever.
    """
    async with pool.connection() as connection, connection.transaction():
        rows = await (await connection.execute(_SQL["known"])).fetchall()
        known = {SecretFingerprint(*row) for row in rows}
        given = fingerprints_of(ring)
        if known:
            _require_known(known, given)
        await _remember(connection, given)


async def accept_secrets(pool: Pool, ring: SecretRing) -> None:
    """Make a ring the database's, whatever was remembered."""
    async with pool.connection() as connection, connection.transaction():
        await _remember(connection, fingerprints_of(ring))
        await connection.execute(_SQL["forget_others"], _columns(fingerprints_of(ring)))


def _require_known(known: set[SecretFingerprint], given: list[SecretFingerprint]) -> None:
    if not known.intersection(each for each in given if each.purpose == SIGNING):
        raise InvalidSettings(f"MAILFOLD_SECRETS: none of them is a secret of this database; {_ADVICE}")
    if known.isdisjoint(each for each in given if each.purpose == ADDRESSES):
        expected = ", ".join(sorted(each.fingerprint for each in known if each.purpose == ADDRESSES))
        raise InvalidSettings(
            "MAILFOLD_ADDRESS_SECRET: addresses would be hashed under another secret than so far (its fingerprint is "
            f"{expected}), and nobody would be suppressed any more; {_ADVICE}"
        )


async def _remember(connection: psycopg.AsyncConnection[object], given: list[SecretFingerprint]) -> None:
    await connection.execute(_SQL["remember"], _columns(given))


def _columns(fingerprints: list[SecretFingerprint]) -> dict[str, list[str]]:
    return {
        "purposes": [each.purpose for each in fingerprints],
        "fingerprints": [each.fingerprint for each in fingerprints],
    }
