-- migrate: outside a transaction
-- By these, rows that are older than the settings keep them are found (pipeline/runtime/retention.py).
drop index concurrently if exists jobs.jobs_done;
create index concurrently jobs_done on jobs.jobs (queue, finished_at) where state = 'done';
drop index concurrently if exists intake.identities_age;
create index concurrently identities_age on intake.identities (recorded_at);
