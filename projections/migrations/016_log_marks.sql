-- The last record that was read: where the log has another one at its place, it is not the log that was read.
alter table jobs.next_offsets
    add column last_offset bigint,
    add column last_time bigint,
    add column last_digest bytea;
comment on column jobs.next_offsets.last_offset is 'of a record that was read; null before one was';

alter table correlation.next_offsets
    add column last_offset bigint,
    add column last_time bigint,
    add column last_digest bytea;
