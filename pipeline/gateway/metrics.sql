-- name: open_jobs
-- How many jobs are in each state that isn't the end, by partial indexes alone: done ones are most.
select queue, state, count(*) from jobs.jobs
where state in ('held', 'pending', 'attempting', 'unknown', 'dead')
group by queue, state

-- name: oldest_jobs
-- Since when the oldest job waits, per queue, in seconds.
select queue, extract(epoch from now() - min(created_at))::float8 from jobs.jobs
where state in ('pending', 'attempting')
group by queue

-- name: paused_lanes
select queue, lane from jobs.lanes where paused_at is not null

-- name: unknown_events
-- The last day's, by the kind of provider that told them: its id begins with it. Hardly any, or 10,000 are enough.
select split_part(event_id, ':', 1), count(*)
from (
    select event_id from projections.timeline
    where kind = 'unknown' and recorded_at > extract(epoch from now() - interval '1 day') * 1000
    limit 10000
) as unknown
group by 1
