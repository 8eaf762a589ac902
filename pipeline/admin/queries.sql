-- name: is_deleted
select exists (select from admin.deleted_tenants where tenant = %s)

-- name: add_tenant
insert into admin.tenants (tenant, batch_max, rate_per_second, verified_senders)
values (%(tenant)s, %(batch_max)s, %(rate_per_second)s, %(verified_senders)s)
on conflict (tenant) do update set batch_max = excluded.batch_max, rate_per_second = excluded.rate_per_second

-- name: list_tenants
select tenant, batch_max, rate_per_second, suspended_at, verified_senders from admin.tenants order by tenant

-- name: tenant
select tenant, batch_max, rate_per_second, case when suspended_at is not null then suspended_reason end,
    verified_senders, created_at, suspended_at,
    (select count(*) from admin.api_keys k
     where k.tenant = t.tenant and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())),
    (select count(*) from admin.brands b where b.tenant = t.tenant),
    (select count(*) from admin.destinations d where d.tenant = t.tenant)
from admin.tenants t where tenant = %s

-- name: tenant_lanes
-- The lanes of a tenant that have jobs to do, by a loose index scan: the cost grows with the lanes, not with the jobs.
with recursive lanes as (
    select queue.name as queue, first.lane
    from (values ('dispatch'), ('emit')) as queue (name) cross join lateral (
        select lane from jobs.jobs
        where jobs.queue = queue.name and state in ('pending', 'attempting')
        order by lane limit 1
    ) first
    union all
    select lanes.queue, later.lane
    from lanes cross join lateral (
        select lane from jobs.jobs
        where jobs.queue = lanes.queue and state in ('pending', 'attempting') and jobs.lane > lanes.lane
        order by lane limit 1
    ) later
)
select distinct lane from lanes where split_part(lane, '/', 1) = %s

-- name: tenant_jobs
-- Each part has an index of its own: a table of finished jobs is never scanned.
select queue, state, count(*)
from (
    select queue, state from jobs.jobs
    where queue in ('dispatch', 'emit') and lane = any(%(lanes)s) and state in ('pending', 'attempting')
    union all
    select queue, state from jobs.jobs
    where state in ('dead', 'unknown') and split_part(lane, '/', 1) = %(tenant)s
    union all
    select queue, state from jobs.jobs where state = 'held' and split_part(lane, '/', 1) = %(tenant)s
) not_done
group by queue, state order by queue, state

-- name: waiting_mail
-- When the oldest email of these lanes that waits was accepted, and how many were accepted too long ago.
select min(created_at), count(*) filter (where created_at < now() - %(kept)s::interval)
from jobs.jobs where queue = 'dispatch' and lane = any(%(lanes)s) and state in ('pending', 'attempting')

-- name: suspend_tenant
-- The time of the first suspension is kept.
update admin.tenants set suspended_at = coalesce(suspended_at, now()), suspended_reason = %s where tenant = %s

-- name: suspension
select case when suspended_at is not null then suspended_reason end from admin.tenants where tenant = %s

-- name: resume_tenant
with resumed as (
    update admin.tenants set suspended_at = null, suspended_reason = ''
    where tenant = %s and suspended_at is not null returning tenant
)
select pg_notify('jobs_dispatch', '') from resumed

-- name: add_key
insert into admin.api_keys (key_hash, tenant, label, scopes, brand, networks, expires_at, made_by)
values (%s, %s, %s, %s, %s, %s::cidr[], %s, %s)

-- name: list_keys
-- The first bytes of the hash identify a key and do not reveal it.
select encode(substring(key_hash for 6), 'hex'), tenant, label, scopes, brand, networks::text[], created_at, made_by,
    expires_at, rotated_at, last_used_on, revoked_at
from admin.api_keys order by tenant, created_at

-- name: revoke_key
update admin.api_keys set revoked_at = now()
where encode(substring(key_hash for 6), 'hex') = %s and revoked_at is null

-- name: find_keys
select k.key_hash, encode(substring(k.key_hash for 6), 'hex'), t.tenant, t.batch_max, t.rate_per_second,
    k.scopes, k.brand, k.networks, k.expires_at, k.last_used_on,
    case when t.suspended_at is not null then t.suspended_reason end, t.verified_senders
from admin.api_keys k join admin.tenants t using (tenant)
where k.key_hash = any(%s) and k.revoked_at is null

-- name: key_named
select k.key_hash, encode(substring(k.key_hash for 6), 'hex'), t.tenant, t.batch_max, t.rate_per_second,
    k.scopes, k.brand, k.networks, k.expires_at, k.last_used_on,
    case when t.suspended_at is not null then t.suspended_reason end, t.verified_senders
from admin.api_keys k join admin.tenants t using (tenant)
where encode(substring(k.key_hash for 6), 'hex') = %s and k.revoked_at is null and k.rotated_at is null
    and (k.expires_at is null or k.expires_at > now())

-- name: rotate_key
-- The new key lasts from now on for as long as the old one was to last. least() ignores a null.
with old as (
    select * from admin.api_keys
    where key_hash = %(old_hash)s and revoked_at is null and rotated_at is null for update
), ended as (
    update admin.api_keys k set rotated_at = now(), expires_at = least(old.expires_at, now() + %(overlap)s)
    from old where k.key_hash = old.key_hash
)
insert into admin.api_keys (key_hash, tenant, label, scopes, brand, networks, expires_at, made_by)
select %(new_hash)s, tenant, label, %(scopes)s, brand, networks, now() + (expires_at - created_at), %(made_by)s
from old

-- name: note_key_use
update admin.api_keys set last_used_on = %s where key_hash = %s and (last_used_on is null or last_used_on < %s)

-- name: add_provider
-- A change without webhook keys keeps the stored ones, because keys are changed by rotation.
insert into admin.providers
    (provider, kind, via, host, port, tls, username, password_sealed, means_delivered, max_connections,
     webhook_keys, region, api_url, options)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (provider) do update set
    kind = excluded.kind, via = excluded.via, host = excluded.host, port = excluded.port, tls = excluded.tls,
    username = excluded.username, password_sealed = excluded.password_sealed,
    means_delivered = excluded.means_delivered, max_connections = excluded.max_connections,
    webhook_keys = case when excluded.webhook_keys = '{}' then providers.webhook_keys else excluded.webhook_keys end,
    region = excluded.region, api_url = excluded.api_url, options = excluded.options

-- name: providers
select provider, kind, via, host, port, tls, username, password_sealed, means_delivered, max_connections,
       webhook_keys, region, api_url, options
from admin.providers order by provider

-- name: provider
select provider, kind, via, host, port, tls, username, password_sealed, means_delivered, max_connections,
       webhook_keys, region, api_url, options
from admin.providers where provider = %s

-- name: list_providers
-- Only what may be shown: the number of webhook keys and not the keys.
select provider, kind, via, host, port, tls, username, means_delivered, max_connections,
       cardinality(webhook_keys), region, api_url
from admin.providers order by provider

-- name: rotate_webhook_key
-- The previous key stays beside the new one, because webhooks signed with it still arrive for a while.
update admin.providers set webhook_keys = (webhook_keys || %s::text)[greatest(cardinality(webhook_keys), 1):]
where provider = %s

-- name: end_old_webhook_keys
update admin.providers set webhook_keys = webhook_keys[cardinality(webhook_keys):] where provider = %s

-- name: add_brand
-- Columns that are not listed here (DKIM, routes) keep their values.
insert into admin.brands
    (tenant, brand, provider, unknown_policy, unsubscribe, trap_link, sender_address, sender_name)
values (%s, %s, %s, %s, %s, %s, %s, %s)
on conflict (tenant, brand) do update set
    provider = excluded.provider, unknown_policy = excluded.unknown_policy, unsubscribe = excluded.unsubscribe,
    trap_link = excluded.trap_link, sender_address = excluded.sender_address, sender_name = excluded.sender_name

-- name: list_brands
select b.tenant, b.brand,
    coalesce(
        (select string_agg(r.provider || '=' || r.weight, ' ' order by r.provider)
         from admin.routes r where (r.tenant, r.brand) = (b.tenant, b.brand)),
        b.provider
    ),
    b.unknown_policy,
    case when b.sender_name = '' then b.sender_address else b.sender_name || ' <' || b.sender_address || '>' end,
    case when b.dkim_key_sealed is null then '' else b.dkim_selector || '._domainkey.' || b.dkim_domain end
from admin.brands b order by 1, 2

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

-- name: lock_credentials
lock table admin.providers, admin.destinations, admin.brands in share row exclusive mode

-- name: sealed_passwords
select provider, password_sealed from admin.providers where password_sealed is not null order by provider

-- name: set_sealed_password
update admin.providers set password_sealed = %s where provider = %s

-- name: sealed_webhook_keys
select provider, webhook_keys from admin.providers where webhook_keys <> '{}' order by provider

-- name: set_sealed_webhook_keys
update admin.providers set webhook_keys = %s where provider = %s

-- name: sealed_destination_keys
select tenant, brand, key_sealed from admin.destinations order by tenant, brand

-- name: set_sealed_destination_key
update admin.destinations set key_sealed = %s where tenant = %s and brand = %s

-- name: sealed_dkim_keys
select tenant, brand, dkim_key_sealed from admin.brands where dkim_key_sealed is not null order by tenant, brand

-- name: set_sealed_dkim_key
update admin.brands set dkim_key_sealed = %s where tenant = %s and brand = %s

-- name: add_console_session
-- Sessions that have ended are deleted here, so that no other job has to; and the key's oldest, beyond its number.
with ended as (
    delete from admin.console_sessions where expires_at < now() or last_seen_at < now() - %(idle)s::interval
        or session_hash = any(array(
            select session_hash from admin.console_sessions where key_hash = %(key_hash)s
            order by expires_at desc offset %(older)s
        ))
)
insert into admin.console_sessions (session_hash, key_hash, expires_at)
values (%(session_hash)s, %(key_hash)s, now() + %(lifetime)s::interval)

-- name: find_console_sessions
select session_hash, key_hash, last_seen_at < now() - interval '1 minute' from admin.console_sessions
where session_hash = any(%s) and expires_at > now() and last_seen_at > now() - %s::interval

-- name: note_console_session_use
update admin.console_sessions set last_seen_at = now() where session_hash = any(%s)

-- name: end_console_session
delete from admin.console_sessions where session_hash = %s

-- name: end_console_sessions_of_key
delete from admin.console_sessions where key_hash = %s

-- name: add_sender_domain
-- The token, and whether the domain is verified, are those of the tenant's other brands.
insert into admin.sender_domains (tenant, domain, brand, token, verified_at)
select asked.tenant, asked.domain, asked.brand, coalesce(other.token, asked.token), other.verified_at
from (values (%s::text, %s::text, %s::text, %s::text)) as asked (tenant, domain, brand, token)
left join lateral (
    select token, verified_at from admin.sender_domains where tenant = %s and domain = %s
    order by verified_at nulls last limit 1
) other on true
on conflict (tenant, domain, brand) do nothing

-- name: sender_domains
select tenant, domain, brand, token, created_at, verified_at from admin.sender_domains
where (%s = '' or tenant = %s) and (%s = '' or domain = %s) order by tenant, domain, brand

-- name: note_verified_domain
update admin.sender_domains set verified_at = now() where tenant = %s and domain = %s

-- name: remove_sender_domain
-- Of all brands, with their own rows, for brand *.
delete from admin.sender_domains where tenant = %s and domain = %s and %s in (brand, '*')

-- name: verified_senders
select verified_senders from admin.tenants where tenant = %s

-- name: require_verified_senders
update admin.tenants set verified_senders = %s where tenant = %s

-- name: has_other_tenants
select count(*) > 0 and not coalesce(bool_or(tenant = %s), false) from admin.tenants

-- name: sender_rules
select 'domain', brand, domain from admin.sender_domains where tenant = %s and verified_at is not null
union all
select 'sender', brand, sender_address from admin.brands where tenant = %s

-- name: analytics_readers
select role::text, tenant from admin.analytics_readers order by role, tenant

-- name: add_analytics_reader
insert into admin.analytics_readers (role, tenant) values (%s, %s) on conflict do nothing

-- name: remove_analytics_reader
delete from admin.analytics_readers where role = %s

-- name: role_exists
select from pg_roles where rolname = %s
