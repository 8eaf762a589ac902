-- name: last_finished
-- The server, and the time of its last finished conversion; where none is finished, of its first one. Seconds since the
-- Unix epoch; null without any job.
select pg_postmaster_start_time(), extract(epoch from coalesce(
    (select max(finished_at) from jobs.jobs where queue = 'emit' and state = 'done'),
    (select min(created_at) from jobs.jobs where queue = 'emit')))::float8
