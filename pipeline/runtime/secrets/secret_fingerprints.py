"""Refuse to work with secrets that are not this database's: links would break and suppressions silently stop to count.

Every role calls it at its start, `mailfold secrets` on request. Postgres holds fingerprints, never a secret.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from pipeline.errors import DatabaseUnavailable, InvalidSettings
from pipeline.runtime.postgres.conninfo import first_line
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, Pool, open_database
from pipeline.runtime.secrets.secret_ring import SecretRing, has_secret, secret_ring
from pipeline.settings import Settings
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
    """Return the fingerprints that a role leaves: of the secret that signs, and of the one that hashes addresses."""
    return [
        SecretFingerprint(SIGNING, ring.signing.fingerprint),
        SecretFingerprint(ADDRESSES, ring.address.fingerprint),
    ]


def secrets_problem(known: Sequence[SecretFingerprint], ring: SecretRing) -> str:
    """Return why a ring is not that of a database with these fingerprints, oldest first; empty if it is.

    It must contain the secret that was the last one to begin to sign, and hash addresses under the same as ever.
    """
    signing = [each.fingerprint for each in known if each.purpose == SIGNING]
    if signing and signing[-1] not in {secret.fingerprint for secret in ring.secrets}:
        return f"MAILFOLD_SECRETS: the secret that signs now (its fingerprint is {signing[-1]}) is not there; {_ADVICE}"
    addresses = [each.fingerprint for each in known if each.purpose == ADDRESSES]
    if addresses and ring.address.fingerprint not in addresses:
        return (
            "MAILFOLD_SECRETS: addresses would be hashed under another secret than so far (its fingerprint is "
            f"{addresses[-1]}), and nobody would be suppressed any more: see the entry addresses:…; {_ADVICE}"
        )
    return ""


async def known_fingerprints(pool: Pool) -> list[SecretFingerprint]:
    """Return the fingerprints of all secrets that the database was used with, oldest first."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(_SQL["known"])).fetchall()
    return [SecretFingerprint(*row) for row in rows]


@contextlib.asynccontextmanager
async def open_checked_database(settings: Settings, *, size: int, remember: bool) -> AsyncIterator[Pool]:
    """Open a pool to a database whose secrets these are. Raise InvalidSettings and DatabaseUnavailable.

    A role remembers its secrets there. A command does not: run in a shell with a wrong secret before any role has
    started, it would shut the roles out. It is not checked where it has no secret at all.
    """
    async with open_database(settings, size=size) as pool:
        if remember or has_secret(settings):
            try:
                await check_secrets(pool, secret_ring(settings), remember=remember)
            except DATABASE_UNAVAILABLE_ERRORS as error:
                raise DatabaseUnavailable(f"Postgres failed at the start: {first_line(error)}") from error
        yield pool


async def check_secrets(pool: Pool, ring: SecretRing, *, remember: bool) -> None:
    """Raise InvalidSettings for a ring that is not this database's; ``remember`` its secrets otherwise."""
    given = fingerprints_of(ring)
    async with pool.connection() as connection, connection.transaction():
        if remember:
            await connection.execute(_SQL["lock"])
        known = [SecretFingerprint(*row) for row in await (await connection.execute(_SQL["known"])).fetchall()]
        if problem := secrets_problem(known, ring):
            raise InvalidSettings(problem)
        if remember and not set(known).issuperset(given):
            await _remember(connection, given)


async def accept_secrets(pool: Pool, ring: SecretRing) -> None:
    """Make a ring the database's, whatever was remembered."""
    async with pool.connection() as connection, connection.transaction():
        await _remember(connection, fingerprints_of(ring))
        await connection.execute(_SQL["forget_others"], _columns(fingerprints_of(ring)))


async def _remember(connection: psycopg.AsyncConnection[object], given: list[SecretFingerprint]) -> None:
    await connection.execute(_SQL["remember"], _columns(given))


def _columns(fingerprints: list[SecretFingerprint]) -> dict[str, list[str]]:
    return {
        "purposes": [each.purpose for each in fingerprints],
        "fingerprints": [each.fingerprint for each in fingerprints],
    }
