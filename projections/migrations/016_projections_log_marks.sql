-- The last record that was projected: where the log has another one at its place, it is not the log that was projected.
set local search_path to projections;

alter table next_offsets
    add column last_offset bigint,
    add column last_time bigint,
    add column last_digest bytea;
comment on column next_offsets.last_offset is 'of a record that was projected; null before one was';
