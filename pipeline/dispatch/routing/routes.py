"""A tenant's brand in, how its mail goes out: its row, its routes, its signature."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from pipeline.admin import Brand
from pipeline.content.dkim import DkimKey
from pipeline.dispatch.routing.rendezvous import Route
from pipeline.errors import NotFound, Refused
from pipeline.runtime.database import Pool
from pipeline.runtime.signing import seal, unseal
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("routing.sql"))


@dataclass(frozen=True)
class BrandRouting:
    """How a brand's mail goes."""

    brand: Brand
    routes: tuple[Route, ...] = ()
    """Fewer than two: there is no choice."""
    dkim: DkimKey | None = None
    """In whose name its messages are signed; None: they aren't."""

    @property
    def only_provider(self) -> str:
        """The one provider where there's no choice; empty where there is."""
        if len(self.routes) > 1:
            return ""
        return self.routes[0].provider if self.routes else self.brand.provider


async def get_brand_routing(pool: Pool, tenant: str, brand: str, secret: str) -> BrandRouting:
    """The way of the brand's row, else of the tenant's ``*``. Raises NotFound."""
    async with pool.connection() as connection:
        row = await (await connection.execute(SQL["way"], (tenant, brand))).fetchone()
    if row is None:
        raise NotFound(f"tenant {tenant} has no brand {brand} and no brand *; `mailfold brands add` makes one")
    domain, selector, sealed, providers, weights = row[8:]
    dkim = None if sealed is None else DkimKey(domain, selector, unseal(secret, bytes(sealed)))
    return BrandRouting(Brand(*row[:8]), tuple(map(Route, providers, weights)), dkim)


async def set_routes(pool: Pool, tenant: str, brand: str, routes: Sequence[Route]) -> None:
    """A brand's routes, in the place of those it had; none: through its one provider again."""
    try:
        async with pool.connection() as connection:
            await connection.execute(SQL["forget_routes"], (tenant, brand))
            for route in routes:
                await connection.execute(SQL["add_route"], (tenant, brand, route.provider, route.weight))
    except psycopg.errors.ForeignKeyViolation as error:
        raise Refused(f"it refers to something that doesn't exist: {error.diag.message_detail}") from error
    except (psycopg.errors.CheckViolation, psycopg.errors.UniqueViolation) as error:
        raise Refused(f"not routes that can be taken: {error.diag.constraint_name}") from error


async def set_dkim(pool: Pool, tenant: str, brand: str, dkim: DkimKey | None, secret: str) -> None:
    """Sign a brand's messages so from now on; None: no more. Raises NotFound."""
    values = (dkim.domain, dkim.selector, seal(secret, dkim.pem)) if dkim else ("", "", None)
    async with pool.connection() as connection:
        if not (await connection.execute(SQL["set_dkim"], (*values, tenant, brand))).rowcount:
            raise NotFound(f"tenant {tenant} has no brand {brand}; `mailfold brands add` makes one")
