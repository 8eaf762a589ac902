"""Queries of the suppression tables, with this installation's rule and the keyed hash of addresses.

The dispatcher, the HTTP routes and `mailfold suppressions` use them.
"""

from collections.abc import Mapping, Sequence

import msgspec

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.database import autocommit_connection
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import AddressHasher, hash_address, old_hash_of
from pipeline.settings import Settings
from projections import suppressions
from projections.suppression_rules import AddressKey, OldAddressHash, Suppression, SuppressionRule
from projections.suppressions import AddressAssessment, SuppressionListQuery, SuppressionPage
from projections.text import storable_text
from topics.suppressions import SuppressionReason


def suppression_rule(settings: Settings) -> SuppressionRule:
    """Return the settings' rule for how many soft bounces suppress an address."""
    return SuppressionRule(settings.soft_bounces, settings.soft_bounce_days)


class AddressHashes(msgspec.Struct, frozen=True):
    """The hashes that identify an address: the current one, and that of earlier versions if it differs."""

    hash: bytes
    old: OldAddressHash | None = None


class SuppressionLookup(msgspec.Struct, frozen=True):
    """The key for the question whether a brand may write to an address."""

    key: AddressKey
    old: OldAddressHash | None = None


class SuppressionQueries:
    """Queries about addresses, by their hashes."""

    def __init__(self, rt: Runtime) -> None:
        self._pool, self._clock = rt.pool, rt.clock
        self._rule = suppression_rule(rt.settings)
        self._hasher = AddressHasher(secret_ring(rt.settings))

    def hash_of(self, address: str) -> bytes:
        """Return the current keyed hash of an address."""
        return hash_address(self._hasher, address)

    def hashes_of(self, address: str) -> AddressHashes:
        """Return the current and the earlier hash of an address."""
        return AddressHashes(self.hash_of(address), old_hash_of(self._hasher, address))

    def lookup_for(self, tenant: str, brand: str, address: str) -> SuppressionLookup:
        """Return the lookup of a brand and an address."""
        hashes = self.hashes_of(address)
        return SuppressionLookup((tenant, storable_text(brand), hashes.hash), hashes.old)

    async def find_suppressed(self, lookups: Sequence[SuppressionLookup]) -> dict[AddressKey, Suppression]:
        """Return the suppressions of those addresses that the brands may not write to."""
        keys, old = [lookup.key for lookup in lookups], _old_hashes(lookups)
        async with autocommit_connection(self._pool) as connection:
            return await suppressions.find_suppressed(connection, keys, self._rule, self._clock(), old)

    async def look_up(self, lookups: Sequence[SuppressionLookup]) -> list[AddressAssessment]:
        """Return the assessment of each address for its brand."""
        keys, old = [lookup.key for lookup in lookups], _old_hashes(lookups)
        async with self._pool.connection() as connection:
            return await suppressions.assess_addresses(connection, keys, self._rule, self._clock(), old)

    async def page(self, query: SuppressionListQuery) -> SuppressionPage:
        """Return a page of a tenant's suppressions."""
        async with self._pool.connection() as connection:
            return await suppressions.find_page(connection, query, self._rule, self._clock())

    async def of_address(self, tenant: str, hashes: AddressHashes) -> list[AddressAssessment]:
        """Return the assessments of one address for every brand that has evidence or a decision about it."""
        async with self._pool.connection() as connection:
            return await suppressions.assess_address(
                connection, tenant, hashes.hash, self._rule, self._clock(), old=hashes.old
            )

    async def find_listed(self, keys: Sequence[AddressKey]) -> dict[AddressKey, tuple[SuppressionReason, str]]:
        """Return the reason and note of those keys that a decision for exactly their brand lists."""
        async with self._pool.connection() as connection:
            return await suppressions.find_listed(connection, keys)

    async def addresses(self, tenant: str, hashes: Sequence[bytes]) -> dict[bytes, str]:
        """Return the addresses with these hashes, as far as the history still contains them."""
        async with self._pool.connection() as connection:
            return await suppressions.find_addresses(connection, tenant, hashes)


def _old_hashes(lookups: Sequence[SuppressionLookup]) -> Mapping[AddressKey, OldAddressHash]:
    return {lookup.key: lookup.old for lookup in lookups if lookup.old is not None}
