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
