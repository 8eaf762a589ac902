-- migrate: outside a transaction
-- By it, identities that are older than the settings keep them are found (pipeline/runtime/postgres/retention.py).
drop index concurrently if exists intake.identities_age;
create index concurrently identities_age on intake.identities (recorded_at);
