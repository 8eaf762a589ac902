-- name: add_tenant
insert into admin.tenants (tenant, batch_max, rate_per_second) values (%s, %s, %s)
on conflict (tenant) do update set batch_max = excluded.batch_max, rate_per_second = excluded.rate_per_second

-- name: list_tenants
select tenant, batch_max, rate_per_second from admin.tenants order by tenant

-- name: add_key
insert into admin.api_keys (key_hash, tenant, label) values (%s, %s, %s)

-- name: list_keys
-- The hash's beginning names a key without being one.
select encode(substring(key_hash for 6), 'hex'), tenant, label, created_at, revoked_at
from admin.api_keys order by tenant, created_at

-- name: revoke_key
update admin.api_keys set revoked_at = now()
where encode(substring(key_hash for 6), 'hex') = %s and revoked_at is null

-- name: tenant_of_key
select t.tenant, t.batch_max, t.rate_per_second
from admin.api_keys k join admin.tenants t using (tenant)
where k.key_hash = %s and k.revoked_at is null

-- name: add_provider
insert into admin.providers
    (provider, kind, host, port, tls, username, password_sealed, means_delivered, max_connections, webhook_key)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (provider) do update set
    kind = excluded.kind, host = excluded.host, port = excluded.port, tls = excluded.tls,
    username = excluded.username, password_sealed = excluded.password_sealed,
    means_delivered = excluded.means_delivered, max_connections = excluded.max_connections,
    webhook_key = excluded.webhook_key

-- name: providers
select provider, kind, host, port, tls, username, password_sealed, means_delivered, max_connections, webhook_key
from admin.providers order by provider

-- name: provider
select provider, kind, host, port, tls, username, password_sealed, means_delivered, max_connections, webhook_key
from admin.providers where provider = %s

-- name: add_brand
insert into admin.brands (tenant, brand, provider, unknown_policy) values (%s, %s, %s, %s)
on conflict (tenant, brand) do update set provider = excluded.provider, unknown_policy = excluded.unknown_policy

-- name: list_brands
select tenant, brand, provider, unknown_policy from admin.brands order by tenant, brand

-- name: brand
-- The brand's own row, else the tenant's '*'.
select tenant, brand, provider, unknown_policy from admin.brands
where tenant = %s and brand in (%s, '*') order by brand = '*' limit 1

-- name: add_destination
insert into admin.destinations (tenant, brand, url, key_sealed, user_id_integer) values (%s, %s, %s, %s, %s)
on conflict (tenant, brand) do update set
    url = excluded.url, key_sealed = excluded.key_sealed, user_id_integer = excluded.user_id_integer

-- name: list_destinations
select tenant, brand, url, user_id_integer from admin.destinations order by tenant, brand

-- name: destination
-- The brand's own row, else the tenant's '*'.
select tenant, brand, url, key_sealed, user_id_integer from admin.destinations
where tenant = %s and brand in (%s, '*') order by brand = '*' limit 1
