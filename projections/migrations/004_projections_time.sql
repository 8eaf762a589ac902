-- The time up to which each partition is projected; a listing never shows a later moment.
set local search_path to projections;

alter table next_offsets
    add column through bigint not null default 0,
    add column changed bigint not null default 0,
    add column partitions integer not null default 1;
comment on column next_offsets.through is
    'the partition''s time: the latest recorded_at up to next_offset. What is projected later is valid from then on';
comment on column next_offsets.changed is 'its time at its last change; a partition whose time is no later needs a tick';
comment on column next_offsets.partitions is 'how many the topic has: before each has a row, nothing is projected of all';
-- Rows that were projected before this migration are listed after the first tick.
update next_offsets set changed = 1 where exists (select from history);
