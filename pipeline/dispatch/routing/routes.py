"""Read and change how the mail of a brand goes out: its row, its routes and its DKIM key.

Read by the dispatcher; changed by `mailfold brands`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from pipeline.admin import Brand
from pipeline.content.dkim import DkimKey
from pipeline.dispatch.routing.rendezvous import Route
from pipeline.errors import NotFound, Refused
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import seal, unseal
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("routing.sql"))


@dataclass(frozen=True)
class BrandRouting:
    """A brand with its routes and its DKIM key."""

    brand: Brand
    routes: tuple[Route, ...] = ()
    """Providers to choose from; with fewer than two there is no choice."""
    dkim: DkimKey | None = None
    """Key that signs the messages; None if they are not signed."""

    @property
    def only_provider(self) -> str:
        """Return the provider of a brand that has only one; an empty string if there is a choice."""
        if len(self.routes) > 1:
            return ""
        return self.routes[0].provider if self.routes else self.brand.provider


async def get_brand_routing(pool: Pool, tenant: str, brand: str, ring: SecretRing) -> BrandRouting:
    """Return the routing of the brand's own row, or else of the tenant's row ``*``. Raises NotFound."""
    async with pool.connection() as connection:
        row = await (await connection.execute(SQL["way"], (tenant, brand))).fetchone()
    if row is None:
        raise NotFound(f"tenant {tenant} has no brand {brand} and no brand *; `mailfold brands add` makes one")
    domain, selector, sealed, providers, weights = row[8:]
    dkim = None if sealed is None else DkimKey(domain, selector, unseal(ring, bytes(sealed)))
    return BrandRouting(Brand(*row[:8]), tuple(map(Route, providers, weights)), dkim)


async def set_routes(pool: Pool, tenant: str, brand: str, routes: Sequence[Route]) -> None:
    """Replace the routes of a brand; without routes it uses the provider of its row again.

    Raises Refused for an unknown brand or provider, a weight that is not allowed or a provider that occurs twice.
    """
    try:
        async with pool.connection() as connection:
            await connection.execute(SQL["forget_routes"], (tenant, brand))
            for route in routes:
                await connection.execute(SQL["add_route"], (tenant, brand, route.provider, route.weight))
    except psycopg.errors.ForeignKeyViolation as error:
        raise Refused(f"it refers to something that doesn't exist: {error.diag.message_detail}") from error
    except (psycopg.errors.CheckViolation, psycopg.errors.UniqueViolation) as error:
        raise Refused(f"not routes that can be taken: {error.diag.constraint_name}") from error


async def set_dkim(pool: Pool, tenant: str, brand: str, dkim: DkimKey | None, ring: SecretRing) -> None:
    """Set the DKIM key that signs the messages of a brand; None ends the signing. Raises NotFound."""
    values = (dkim.domain, dkim.selector, seal(ring, dkim.pem)) if dkim else ("", "", None)
    async with pool.connection() as connection:
        if not (await connection.execute(SQL["set_dkim"], (*values, tenant, brand))).rowcount:
            raise NotFound(f"tenant {tenant} has no brand {brand}; `mailfold brands add` makes one")
