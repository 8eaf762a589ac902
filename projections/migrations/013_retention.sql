-- migrate: outside a transaction
-- By it, jobs that are older than the settings keep them are found (pipeline/runtime/postgres/retention.py).
drop index concurrently if exists jobs.jobs_done;
create index concurrently jobs_done on jobs.jobs (queue, finished_at) where state = 'done';
