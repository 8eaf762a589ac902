-- A trace's context travels from a record to the job that it makes, and from the job to the records of its outcome.
alter table jobs.jobs add column traceparent text not null default '';
comment on column jobs.jobs.traceparent is 'W3C trace context of what made the job; empty if its email is not traced';
