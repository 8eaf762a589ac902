-- name: way
-- The brand's own row, else the tenant's '*', with that row's routes.
select b.tenant, b.brand, b.provider, b.unknown_policy, b.unsubscribe, b.trap_link, b.sender_address, b.sender_name,
    b.dkim_domain, b.dkim_selector, b.dkim_key_sealed,
    array(select r.provider from admin.routes r where (r.tenant, r.brand) = (b.tenant, b.brand) order by r.provider),
    array(select r.weight from admin.routes r where (r.tenant, r.brand) = (b.tenant, b.brand) order by r.provider)
from admin.brands b
where b.tenant = %s and b.brand in (%s, '*') order by b.brand = '*' limit 1

-- name: forget_routes
delete from admin.routes where tenant = %s and brand = %s

-- name: add_route
insert into admin.routes (tenant, brand, provider, weight) values (%s, %s, %s, %s)

-- name: set_dkim
update admin.brands set dkim_domain = %s, dkim_selector = %s, dkim_key_sealed = %s where tenant = %s and brand = %s

-- name: remember
-- Store the provider that may get the email, for the jobs whose lease we still hold. Rows are found by index first and
-- updated by ctid then: see pipeline/jobs/queries.sql.
update jobs.jobs j set route = mine.provider
from (
    select j.tid, mine.provider
    from (
        select * from unnest(
            %(streams)s::uuid[], %(seqs)s::integer[], %(tokens)s::uuid[], %(providers)s::text[]
        ) as v (stream, seq, token, provider) order by stream, seq
    ) mine
    cross join lateral (
        select j.ctid as tid from jobs.jobs j
        where j.queue = 'dispatch' and j.stream = mine.stream and j.seq = mine.seq and j.lease_token = mine.token
            and j.state = 'attempting'
        limit 1 for update
    ) j
) mine
where j.ctid = mine.tid
returning j.stream::text, j.seq

-- name: health
select lane, trips, coalesce(open_until > now(), false), paused_at is not null
from jobs.lanes where queue = 'provider' and (failures > 0 or trips > 0 or paused_at is not null)

-- name: probe
-- Let one of all dispatchers probe a provider whose pause is over, until the breaker closes or opens again.
update jobs.lanes set probing_until = now() + %(seconds)s * interval '1 second'
where queue = 'provider' and lane = %(provider)s and trips > 0 and paused_at is null
    and (open_until is null or open_until <= now()) and (probing_until is null or probing_until <= now())
returning lane
