-- migrate: outside a transaction
-- The order of changes: the feed of all, and listings by the last update. A change of a state writes into every index of
-- `history` from now on; before, an open or click could be a HOT update.
set search_path to projections;
drop index concurrently if exists history_changes;
create index concurrently history_changes on history (tenant, valid_from, email_id);
drop index concurrently if exists versions_changes;
create index concurrently versions_changes on versions (tenant, valid_from, email_id, version);
-- Versions before a provider has the email, which the index of listed versions leaves out.
drop index concurrently if exists versions_unlisted;
create index concurrently versions_unlisted on versions using gist (int8range(valid_from, valid_to)) where listed is null;
