"""An operator's configuration in Postgres: tenants, API keys, providers, brands and destinations.

The commands write it; the gateway, the dispatcher and the emitter read it, as frozen values.
"""

from pipeline.admin.api_keys import (
    KEY_PATTERN,
    ApiKey,
    KeyLimits,
    add_key,
    find_key,
    find_keys,
    is_possible_key,
    key_hash,
    key_names,
    list_keys,
    note_key_use,
    revoke_key,
    rotate_key,
)
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
from pipeline.admin.scopes import BRAND_SCOPES, SCOPE_MEANINGS, KeyScope
from pipeline.admin.sql import fetch_rows
from pipeline.admin.tenants import (
    SUSPENSION_DELAY_S,
    Tenant,
    TenantSummary,
    add_tenant,
    get_tenant,
    open_jobs,
    resume_tenant,
    suspend_tenant,
    unknown_tenant,
)

__all__ = [
    "BRAND_SCOPES",
    "KEY_PATTERN",
    "PROVIDER_KINDS",
    "SCOPE_MEANINGS",
    "SUSPENSION_DELAY_S",
    "ApiKey",
    "Brand",
    "Destination",
    "KeyLimits",
    "KeyScope",
    "Provider",
    "Tenant",
    "TenantSummary",
    "add_brand",
    "add_destination",
    "add_key",
    "add_provider",
    "add_tenant",
    "end_old_webhook_keys",
    "fetch_rows",
    "find_key",
    "find_keys",
    "get_destination",
    "get_provider",
    "get_tenant",
    "is_possible_key",
    "is_unencrypted_url",
    "key_hash",
    "key_names",
    "list_keys",
    "list_providers",
    "note_key_use",
    "open_jobs",
    "resume_tenant",
    "revoke_key",
    "rotate_key",
    "rotate_webhook_key",
    "suspend_tenant",
    "unknown_tenant",
]
