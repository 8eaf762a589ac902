"""An address in, whether a brand writes to it and why not out: the tables asked with our rule and our keyed hash."""

from collections.abc import Sequence

from pipeline.bootstrap import Runtime
from pipeline.settings import Settings
from pipeline.signing import Signer, hash_address
from projections import suppressions
from projections.suppressing import AddressKey, Rule, Why, stored
from projections.suppressions import Asked, Known, Page
from topics.suppressions import Reason


def rule_of(settings: Settings) -> Rule:
    """When soft bounces are enough, as it is set."""
    return Rule(settings.soft_bounces, settings.soft_bounce_days)


class Asking:
    """What is known of addresses."""

    def __init__(self, rt: Runtime) -> None:
        self._pool, self._clock = rt.pool, rt.clock
        self._rule = rule_of(rt.settings)
        self._signer = Signer(rt.settings.secret.get_secret_value(), "address")

    def hashed(self, address: str) -> bytes:
        """The keyed hash under which an address is known."""
        return hash_address(self._signer, address)

    def key(self, tenant: str, brand: str, address: str) -> AddressKey:
        """What a brand's mail to an address is asked by."""
        return tenant, stored(brand), self.hashed(address)

    async def suppressed(self, keys: Sequence[AddressKey]) -> dict[AddressKey, Why]:
        """Those of these that get nothing, and why."""
        async with self._pool.connection() as connection:
            return await suppressions.suppressed(connection, keys, self._rule, self._clock())

    async def look(self, keys: Sequence[AddressKey]) -> list[Known]:
        """All that is known of these."""
        async with self._pool.connection() as connection:
            return await suppressions.look(connection, keys, self._rule, self._clock())

    async def page(self, asked: Asked) -> Page:
        """A page of a tenant's suppressions."""
        async with self._pool.connection() as connection:
            return await suppressions.page(connection, asked, self._rule, self._clock())

    async def of_address(self, tenant: str, address_hash: bytes) -> list[Known]:
        """Everything that is known of one address, brand by brand."""
        async with self._pool.connection() as connection:
            return await suppressions.of_address(connection, tenant, address_hash, self._rule, self._clock())

    async def listed(self, keys: Sequence[AddressKey]) -> dict[AddressKey, tuple[Reason, str]]:
        """Those of these that are listed by a decision for this very brand: why, and the note."""
        async with self._pool.connection() as connection:
            return await suppressions.listed(connection, keys)

    async def addresses(self, tenant: str, hashes: Sequence[bytes]) -> dict[bytes, str]:
        """The addresses behind these hashes, those that the history still knows."""
        async with self._pool.connection() as connection:
            return await suppressions.addresses(connection, tenant, hashes)
