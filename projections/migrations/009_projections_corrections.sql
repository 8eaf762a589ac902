-- Corrections of events by a corrected mapping: the timeline has each event in its latest revision.
set local search_path to projections;

alter table timeline add column revision bigint not null default 0;
comment on column timeline.revision is 'which reading of the event this is; 0 is the first. The highest stands';
