-- The engine under dispatch and emit: durable jobs with lease, schedule, order and breaker.
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
    lease_token uuid,
    lease_until timestamptz,
    payload bytea not null,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    last_error text not null default '',
    primary key (queue, stream, seq),
    unique (queue, stream, name)
);
comment on column jobs.jobs.name is 'what is due, once per email: a conversion''s word, or "send"';
comment on column jobs.jobs.stream is 'the email: its jobs are done one after the other, by seq';
comment on column jobs.jobs.lane is 'the brand: what is paused, broken or slow together';
comment on column jobs.jobs.state is
    'held: a rebuild hasn''t reached the log''s end; unknown: found attempting after a crash, policy hold';

create index jobs_due on jobs.jobs (queue, due_at) where state in ('pending', 'attempting');
create index jobs_open on jobs.jobs (queue, stream, seq) where state in ('held', 'pending', 'attempting', 'unknown');
create index jobs_dead on jobs.jobs (queue, finished_at) where state in ('dead', 'unknown');

create table jobs.lanes (
    queue text not null,
    lane text not null,
    paused_at timestamptz,
    paused_reason text not null default '',
    failures integer not null default 0,
    open_until timestamptz,
    primary key (queue, lane)
);
comment on column jobs.lanes.paused_at is 'set by an operator or by 401, 403, 404: alarms, and burns no attempts';
comment on column jobs.lanes.open_until is 'the breaker: nothing is tried in this lane before';

create table jobs.next_offsets (
    queue text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (queue, topic, partition)
);
comment on table jobs.next_offsets is 'first unread, per queue: written in the transaction that wrote the jobs';
