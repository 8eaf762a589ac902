-- Rows as they may be shown and recorded: without sealed credentials, hashes of keys, and keys of webhooks.

-- name: tenant_shown
select to_jsonb(t) from admin.tenants t where tenant = %s

-- name: key_shown
select to_jsonb(k) from admin.api_keys k where encode(substring(key_hash for 6), 'hex') = %s

-- name: provider_shown
select to_jsonb(p) || jsonb_build_object(
    'has_password', password_sealed is not null, 'number_of_webhook_keys', cardinality(webhook_keys))
from admin.providers p where provider = %s

-- name: brand_shown
select to_jsonb(b) || jsonb_build_object('is_signed', dkim_key_sealed is not null, 'routes', (
    select coalesce(jsonb_object_agg(r.provider, r.weight), '{}') from admin.routes r
    where (r.tenant, r.brand) = (b.tenant, b.brand)))
from admin.brands b where tenant = %s and brand = %s

-- name: destination_shown
select to_jsonb(d) from admin.destinations d where tenant = %s and brand = %s

-- name: lane_shown
select to_jsonb(l) from jobs.lanes l where queue = %s and lane = %s
