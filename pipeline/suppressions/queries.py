"""An address in, whether a brand writes to it and why not out: the tables asked with our rule and our keyed hash."""

from collections.abc import Mapping, Sequence

import msgspec

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.signing import Signer, hash_address, old_hash_of
from pipeline.settings import Settings
from projections import suppressions
from projections.suppressing import AddressKey, OldAddressHash, Suppression, SuppressionRule
from projections.suppressions import AddressAssessment, SuppressionListQuery, SuppressionPage
from projections.text import storable_text
from topics.suppressions import SuppressionReason


def suppression_rule(settings: Settings) -> SuppressionRule:
    """When soft bounces are enough, as it is set."""
    return SuppressionRule(settings.soft_bounces, settings.soft_bounce_days)


class AddressHashes(msgspec.Struct, frozen=True):
    """An address as the tables know it: today's hash, and the one of earlier versions where it differs."""

    hash: bytes
    old: OldAddressHash | None = None


class SuppressionLookup(msgspec.Struct, frozen=True):
    """A brand and an address: may it write there."""

    key: AddressKey
    old: OldAddressHash | None = None


class SuppressionQueries:
    """What is known of addresses."""

    def __init__(self, rt: Runtime) -> None:
        self._pool, self._clock = rt.pool, rt.clock
        self._rule = suppression_rule(rt.settings)
        self._signer = Signer(rt.settings.secret.get_secret_value(), "address")

    def hash_of(self, address: str) -> bytes:
        """The keyed hash under which an address is known."""
        return hash_address(self._signer, address)

    def hashes_of(self, address: str) -> AddressHashes:
        """Return both hashes under which an address may be known."""
        return AddressHashes(self.hash_of(address), old_hash_of(self._signer, address))

    def lookup_for(self, tenant: str, brand: str, address: str) -> SuppressionLookup:
        """Return what a brand's mail to an address is asked by."""
        named = self.hashes_of(address)
        return SuppressionLookup((tenant, storable_text(brand), named.hash), named.old)

    async def find_suppressed(self, questions: Sequence[SuppressionLookup]) -> dict[AddressKey, Suppression]:
        """Return those of these that get nothing, and why."""
        keys, old = [asked.key for asked in questions], _old_hashes(questions)
        async with self._pool.connection() as connection:
            return await suppressions.find_suppressed(connection, keys, self._rule, self._clock(), old)

    async def look_up(self, questions: Sequence[SuppressionLookup]) -> list[AddressAssessment]:
        """Return all that is known of these."""
        keys, old = [asked.key for asked in questions], _old_hashes(questions)
        async with self._pool.connection() as connection:
            return await suppressions.assess_addresses(connection, keys, self._rule, self._clock(), old)

    async def page(self, asked: SuppressionListQuery) -> SuppressionPage:
        """A page of a tenant's suppressions."""
        async with self._pool.connection() as connection:
            return await suppressions.find_page(connection, asked, self._rule, self._clock())

    async def of_address(self, tenant: str, named: AddressHashes) -> list[AddressAssessment]:
        """Return everything that is known of one address, brand by brand."""
        async with self._pool.connection() as connection:
            return await suppressions.assess_address(
                connection, tenant, named.hash, self._rule, self._clock(), old=named.old
            )

    async def find_listed(self, keys: Sequence[AddressKey]) -> dict[AddressKey, tuple[SuppressionReason, str]]:
        """Those of these that are listed by a decision for this very brand: why, and the note."""
        async with self._pool.connection() as connection:
            return await suppressions.find_listed(connection, keys)

    async def addresses(self, tenant: str, hashes: Sequence[bytes]) -> dict[bytes, str]:
        """The addresses behind these hashes, those that the history still knows."""
        async with self._pool.connection() as connection:
            return await suppressions.find_addresses(connection, tenant, hashes)


def _old_hashes(questions: Sequence[SuppressionLookup]) -> Mapping[AddressKey, OldAddressHash]:
    return {asked.key: asked.old for asked in questions if asked.old is not None}
