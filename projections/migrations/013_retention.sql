-- By these, rows that are older than the settings keep them are found (pipeline/runtime/retention.py).
create index jobs_done on jobs.jobs (queue, finished_at) where state = 'done';
create index identities_age on intake.identities (recorded_at);
