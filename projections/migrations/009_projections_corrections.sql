-- Events that a corrected mapping read anew: the timeline holds each event as it is read now.
set local search_path to projections;

alter table timeline add column revision bigint not null default 0;
comment on column timeline.revision is 'which reading of the event this is; 0 is the first. The highest stands';
