-- The job queue of dispatch and emit: durable jobs with lease, schedule, order and breaker.
create schema jobs;

create table jobs.jobs (
    queue text not null,
    stream uuid not null,
    seq integer not null,
    name text not null,
    lane text not null,
    state text not null check (state in ('held', 'pending', 'attempting', 'unknown', 'done', 'dead')),
    due_at timestamptz not null default now(),
    attempts integer not null default 0,
    replayed_after integer not null default 0,
    lease_token uuid,
    payload bytea not null,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    last_error text not null default '',
    primary key (queue, stream, seq),
    unique (queue, stream, name)
)
-- Rows of a queue change often: leave room for their next versions, and vacuum before a fifth of all rows is dead.
with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
comment on column jobs.jobs.name is 'what is due, once per email: a conversion''s word, or "send"';
comment on column jobs.jobs.stream is 'the email: its jobs are done one after the other, by seq';
comment on column jobs.jobs.lane is 'the brand: what is paused, broken or slow together';
comment on column jobs.jobs.state is
    'held: not to be done yet (a rebuild hasn''t reached the log''s end, or an ack came before its request); '
    'unknown: found attempting after a crash, policy hold';
comment on column jobs.jobs.due_at is 'pending: not to be tried before; attempting: until when the lease holds';
comment on column jobs.jobs.replayed_after is
    'attempts made before the last replay: the schedule begins anew, the numbers of attempts (and ids made of them) go on';
comment on column jobs.jobs.payload is 'emptied when done: what is kept then is only that it was';

create index jobs_due on jobs.jobs (queue, lane, due_at) where state in ('pending', 'attempting');
-- The second and later jobs of each email, which may wait behind an earlier one.
create index jobs_followers on jobs.jobs (queue, lane, due_at) where state = 'pending' and seq > 1;
create index jobs_dead on jobs.jobs (queue, finished_at) where state in ('dead', 'unknown');
create index jobs_held on jobs.jobs (queue) where state = 'held';

create table jobs.lanes (
    queue text not null,
    lane text not null,
    paused_at timestamptz,
    paused_reason text not null default '',
    failures integer not null default 0,
    trips integer not null default 0,
    open_until timestamptz,
    probing_until timestamptz,
    primary key (queue, lane)
);
comment on column jobs.lanes.paused_at is 'set by an operator or by 401, 403, 404: alarms, and burns no attempts';
comment on column jobs.lanes.failures is 'in a row, while the breaker is closed';
comment on column jobs.lanes.trips is 'how often in a row the breaker opened; more than 0: one probe at a time';
comment on column jobs.lanes.open_until is 'the breaker: nothing is tried in this lane before';
comment on column jobs.lanes.probing_until is 'after the pause one job probes; the others wait for it, or until this';

create table jobs.next_offsets (
    queue text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (queue, topic, partition)
);
comment on table jobs.next_offsets is 'first unread, per queue: written in the transaction that wrote the jobs';
