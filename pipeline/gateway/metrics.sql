-- name: open_jobs
-- Counts open jobs per queue, state and class of tenant. Done jobs, which are most, are left out so that partial indexes
-- suffice. A job that an ack created before its request was read has no lane, and so no tenant.
select queue, state, case when tenant = '' then 'none' when of_tenant >= %(large)s then 'large' else 'small' end,
    sum(jobs)::bigint
from (
    select queue, state, tenant, jobs, sum(jobs) over (partition by queue, tenant) as of_tenant
    from (
        select queue, state, split_part(lane, '/', 1) as tenant, count(*) as jobs from jobs.jobs
        where state in ('held', 'pending', 'attempting', 'unknown', 'dead')
        group by 1, 2, 3
    ) as by_tenant
) as by_state
group by 1, 2, 3

-- name: oldest_jobs
-- Age of the oldest open job per queue, in seconds. Mail of suspended tenants waits on purpose.
select queue, extract(epoch from now() - min(created_at))::float8 from jobs.jobs
where state in ('pending', 'attempting') and (
    queue <> 'dispatch'
    or split_part(lane, '/', 1) not in (select tenant from admin.tenants where suspended_at is not null))
group by queue

-- name: oldest_suspended_mail
-- Age of the oldest email that waits because its tenant is suspended, in seconds.
select coalesce(extract(epoch from now() - min(created_at)), 0)::float8 from jobs.jobs
where queue = 'dispatch' and state in ('pending', 'attempting')
    and split_part(lane, '/', 1) in (select tenant from admin.tenants where suspended_at is not null)

-- name: paused_lanes
select queue, lane from jobs.lanes where paused_at is not null

-- name: stopped_lanes
select queue, case when paused_at is null then 'open' else 'paused' end as why, count(*) from jobs.lanes
where paused_at is not null or open_until > now()
group by 1, 2

-- name: unknown_events
-- Counts the last day's unknown events by kind of provider, with which an event's id begins. Usually there are few;
-- more than 10,000 need not be counted exactly.
select split_part(event_id, ':', 1), count(*)
from (
    select event_id from projections.timeline
    where kind = 'unknown' and recorded_at > extract(epoch from now() - interval '1 day') * 1000
    limit 10000
) as unknown
group by 1
