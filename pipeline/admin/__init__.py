"""What an operator decides: tenants, API keys, providers, brands, destinations. Rows in, frozen values out."""

from pipeline.admin.brands import (
    Brand,
    Destination,
    add_brand,
    add_destination,
    get_destination,
    travels_open,
)
from pipeline.admin.providers import (
    KINDS,
    Provider,
    add_provider,
    end_old_webhook_keys,
    get_provider,
    providers,
    rotate_webhook_key,
)
from pipeline.admin.sql import rows
from pipeline.admin.tenants import (
    Tenant,
    add_key,
    add_tenant,
    key_hash,
    revoke_key,
    tenant_of_hash,
    tenant_of_key,
)

__all__ = [
    "KINDS",
    "Brand",
    "Destination",
    "Provider",
    "Tenant",
    "add_brand",
    "add_destination",
    "add_key",
    "add_provider",
    "add_tenant",
    "end_old_webhook_keys",
    "get_destination",
    "get_provider",
    "key_hash",
    "providers",
    "revoke_key",
    "rotate_webhook_key",
    "rows",
    "tenant_of_hash",
    "tenant_of_key",
    "travels_open",
]
