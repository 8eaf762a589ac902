-- migrate: outside a transaction
-- Rows that a version without statistics wrote, for the projector to count (projections/sink.py).
set search_path to projections;
drop index concurrently if exists history_uncounted;
create index concurrently history_uncounted on history (valid_from) where counted_version <> version;
