"""An address in, whether a brand writes to it and why not out: the tables asked with our rule and our keyed hash."""

from collections.abc import Mapping, Sequence

import msgspec

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.signing import Signer, hash_address, old_hash_of
from pipeline.settings import Settings
from projections import suppressions
from projections.suppressing import AddressKey, OldHash, Rule, Why
from projections.suppressions import Asked, Known, Page
from projections.text import storable_text
from topics.suppressions import Reason


def rule_of(settings: Settings) -> Rule:
    """When soft bounces are enough, as it is set."""
    return Rule(settings.soft_bounces, settings.soft_bounce_days)


class NamedAddress(msgspec.Struct, frozen=True):
    """An address as the tables know it: today's hash, and the one of earlier versions where it differs."""

    hash: bytes
    old: OldHash | None = None


class SuppressionQuestion(msgspec.Struct, frozen=True):
    """A brand and an address: may it write there."""

    key: AddressKey
    old: OldHash | None = None


class Asking:
    """What is known of addresses."""

    def __init__(self, rt: Runtime) -> None:
        self._pool, self._clock = rt.pool, rt.clock
        self._rule = rule_of(rt.settings)
        self._signer = Signer(rt.settings.secret.get_secret_value(), "address")

    def hashed(self, address: str) -> bytes:
        """The keyed hash under which an address is known."""
        return hash_address(self._signer, address)

    def named(self, address: str) -> NamedAddress:
        """Return both hashes under which an address may be known."""
        return NamedAddress(self.hashed(address), old_hash_of(self._signer, address))

    def question(self, tenant: str, brand: str, address: str) -> SuppressionQuestion:
        """Return what a brand's mail to an address is asked by."""
        named = self.named(address)
        return SuppressionQuestion((tenant, storable_text(brand), named.hash), named.old)

    async def suppressed(self, questions: Sequence[SuppressionQuestion]) -> dict[AddressKey, Why]:
        """Return those of these that get nothing, and why."""
        keys, old = [asked.key for asked in questions], _old_hashes(questions)
        async with self._pool.connection() as connection:
            return await suppressions.suppressed(connection, keys, self._rule, self._clock(), old)

    async def look(self, questions: Sequence[SuppressionQuestion]) -> list[Known]:
        """Return all that is known of these."""
        keys, old = [asked.key for asked in questions], _old_hashes(questions)
        async with self._pool.connection() as connection:
            return await suppressions.look(connection, keys, self._rule, self._clock(), old)

    async def page(self, asked: Asked) -> Page:
        """A page of a tenant's suppressions."""
        async with self._pool.connection() as connection:
            return await suppressions.page(connection, asked, self._rule, self._clock())

    async def of_address(self, tenant: str, named: NamedAddress) -> list[Known]:
        """Return everything that is known of one address, brand by brand."""
        async with self._pool.connection() as connection:
            return await suppressions.of_address(
                connection, tenant, named.hash, self._rule, self._clock(), old=named.old
            )

    async def listed(self, keys: Sequence[AddressKey]) -> dict[AddressKey, tuple[Reason, str]]:
        """Those of these that are listed by a decision for this very brand: why, and the note."""
        async with self._pool.connection() as connection:
            return await suppressions.listed(connection, keys)

    async def addresses(self, tenant: str, hashes: Sequence[bytes]) -> dict[bytes, str]:
        """The addresses behind these hashes, those that the history still knows."""
        async with self._pool.connection() as connection:
            return await suppressions.addresses(connection, tenant, hashes)


def _old_hashes(questions: Sequence[SuppressionQuestion]) -> Mapping[AddressKey, OldHash]:
    return {asked.key: asked.old for asked in questions if asked.old is not None}
