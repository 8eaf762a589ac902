"""Read stored rows as they may be shown and recorded: without secrets. The changing commands call it."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pipeline.admin.api_keys import KeyLimits
from pipeline.admin.brands import Destination
from pipeline.admin.providers import Provider
from pipeline.runtime.postgres.database import Pool
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("shown.sql"))
_SECRET_COLUMN: Final = re.compile(r"_sealed$|^key_hash$|^webhook_keys$|^lease_token$")


async def shown_row(pool: Pool, query: str, *values: str) -> dict[str, Any] | None:
    """Return the row that a query of `shown.sql` finds, without secrets; None if there is none."""
    async with pool.connection() as connection:
        row = await (await connection.execute(SQL[query], values)).fetchone()
    return None if row is None else {name: value for name, value in row[0].items() if not is_secret_column(name)}


def is_secret_column(name: str) -> bool:
    """Return whether a column holds something that must not be shown."""
    return _SECRET_COLUMN.search(name) is not None


def shown_provider(provider: Provider) -> dict[str, Any]:
    """Return a provider's fields without its credentials."""
    fields = asdict(provider) | {"options": dict(provider.options)}
    fields["has_password"] = bool(fields.pop("password"))
    # None are given where those that are stored stay.
    fields["number_of_new_webhook_keys"] = len(fields.pop("webhook_keys"))
    return fields


def shown_destination(destination: Destination) -> dict[str, Any]:
    """Return a destination's fields without its key."""
    return {name: value for name, value in asdict(destination).items() if name != "key"}


def shown_limits(limits: KeyLimits) -> dict[str, Any]:
    """Return the limits of an API key."""
    return {
        "scopes": None if limits.scopes is None else sorted(limits.scopes),
        "brand": limits.brand,
        "networks": [str(network) for network in limits.networks],
        "expires_at": None if limits.expires_at is None else limits.expires_at.isoformat(),
    }
