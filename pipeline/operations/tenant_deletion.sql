-- name: lock_tenant
-- Nobody adds a key, a brand or a destination of the tenant after this.
select suspended_at from admin.tenants where tenant = %s for update

-- name: suspension
-- Since when, and for how many seconds by the database's clock.
select suspended_at, extract(epoch from clock_timestamp() - suspended_at)::float8 from admin.tenants where tenant = %s

-- name: attempts_in_hand
-- Emails that a dispatcher is sending: those whose lease holds.
select count(*) from jobs.jobs
where queue = 'dispatch' and lane = any(%(lanes)s) and state = 'attempting' and due_at > now()

-- name: remember
insert into admin.deleted_tenants (tenant) values (%s) on conflict do nothing

-- name: delete_keys
delete from admin.api_keys where tenant = %s

-- name: delete_destinations
delete from admin.destinations where tenant = %s

-- name: delete_domains
delete from admin.sender_domains where tenant = %s

-- name: delete_brands
-- Their routes are deleted with them.
delete from admin.brands where tenant = %s

-- name: delete_tenant
delete from admin.tenants where tenant = %s

-- name: finish
update admin.deleted_tenants set finished_at = now() where tenant = %s

-- name: history_page
-- Where the next page of the history ends, and which of its emails and mails are the tenant's. The pages cover all
-- tenants, because no index has every email of one.
with page as (
    select email_id, tenant, message_id from projections.history
    where email_id > %(after)s::uuid order by email_id limit %(limit)s
)
select (array_agg(email_id order by email_id desc))[1]::text,
    coalesce(array_agg(email_id::text) filter (where tenant = %(tenant)s), '{}'),
    coalesce(array_agg(distinct message_id) filter (where tenant = %(tenant)s), '{}')
from page

-- name: delete_emails
with deleted_timeline as (
    delete from projections.timeline where email_id = any(%(email_ids)b::uuid[])
), deleted_readings as (
    delete from projections.superseded_facts where email_id = any(%(email_ids)b::uuid[])
), deleted_versions as (
    delete from projections.versions where email_id = any(%(email_ids)b::uuid[])
), deleted_mails as (
    delete from projections.mails where mail_id = any(%(mail_ids)b::text[]) and tenant = %(tenant)s
), deleted_identities as (
    -- An Idempotency-Key reserves the id of its message, too, which is a UUID unless a request names none.
    delete from intake.identities where email_id = any(%(email_ids)b::uuid[] || array(
        select mail_id::uuid from unnest(%(mail_ids)b::text[]) mail_id where mail_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    ))
), deleted_jobs as (
    delete from jobs.jobs where queue in ('dispatch', 'emit') and stream = any(%(email_ids)b::uuid[])
)
delete from projections.history where email_id = any(%(email_ids)b::uuid[])

-- name: delete_open_jobs
-- Jobs of emails that are not in the history. Each part has an index of its own: no table of finished jobs is scanned.
delete from jobs.jobs where ctid = any(array(
    (
        select ctid from jobs.jobs
        where queue in ('dispatch', 'emit') and lane = any(%(lanes)s) and state in ('pending', 'attempting')
        limit %(limit)s
    )
    union all
    (
        select ctid from jobs.jobs
        where state in ('dead', 'unknown') and split_part(lane, '/', 1) = %(tenant)s
        limit %(limit)s
    )
    union all
    (select ctid from jobs.jobs where state = 'held' and split_part(lane, '/', 1) = %(tenant)s limit %(limit)s)
)) and split_part(lane, '/', 1) = %(tenant)s

-- name: delete_lanes
delete from jobs.lanes where split_part(lane, '/', 1) = %(tenant)s and queue in ('dispatch', 'emit')

-- name: delete_template_versions
delete from intake.template_versions where template_id in (
    select template_id from templates.versions where tenant = %(tenant)s
)

-- name: tables_with_tenant
-- Whatever else has rows by tenant. A rebuild's schema is not there: it is excluded meanwhile. Other schemas of the
-- database may be another program's.
select c.table_schema, c.table_name
from information_schema.columns c join information_schema.tables t using (table_schema, table_name)
where c.column_name = 'tenant' and t.table_type = 'BASE TABLE' and c.table_schema = any(%(schemas)s)
    and (c.table_schema, c.table_name) not in (
        ('admin', 'deleted_tenants'), ('projections', 'history'), ('projections', 'versions'))
order by 1, 2

-- name: blocks
select pg_relation_size(%s::regclass) / current_setting('block_size')::integer

-- name: delete_rows
-- Of a range of blocks, because not every table has an index by tenant.
delete from {table}
where tenant = %(tenant)s and ctid >= format('(%%s,0)', %(block)s::bigint)::tid
    and ctid < format('(%%s,0)', %(end)s::bigint)::tid
