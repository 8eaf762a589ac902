"""An operator's configuration in Postgres: tenants, API keys, providers, brands and destinations.

The commands write it; the gateway, the dispatcher and the emitter read it, as frozen values.
"""

from pipeline.admin.brands import (
    Brand,
    Destination,
    add_brand,
    add_destination,
    get_destination,
    is_unencrypted_url,
)
from pipeline.admin.providers import (
    PROVIDER_KINDS,
    Provider,
    add_provider,
    end_old_webhook_keys,
    get_provider,
    list_providers,
    rotate_webhook_key,
)
from pipeline.admin.sql import fetch_rows
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
    "PROVIDER_KINDS",
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
    "fetch_rows",
    "get_destination",
    "get_provider",
    "is_unencrypted_url",
    "key_hash",
    "list_providers",
    "revoke_key",
    "rotate_webhook_key",
    "tenant_of_hash",
    "tenant_of_key",
]
