-- name: lock
-- Lock all rows that the batch touches first, in the order in which the job engine locks them too: this excludes
-- deadlocks.
select from jobs.jobs where queue = 'dispatch' and stream = any(%(streams)b::uuid[]) order by stream, seq for update

-- name: take_requests
-- A request that is read twice becomes one job. A job that an ack created (the database was rebuilt, or the ack was
-- read first) gets its lane and payload now; if that ack was a deferral, the job is held and becomes pending. Nothing is
-- sent for deleted tenants, whose requests a rebuilt database reads, too.
insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)
select 'dispatch', request.stream, 0, 'send', request.lane, 'pending', request.payload
from unnest(%(streams)b::uuid[], %(lanes)b::text[], %(payloads)b::bytea[]) as request (stream, lane, payload)
where not exists (select from admin.deleted_tenants d where d.tenant = split_part(request.lane, '/', 1))
on conflict (queue, stream, seq) do update set
    lane = excluded.lane,
    payload = case jobs.state when 'done' then jobs.payload else excluded.payload end,
    state = case jobs.state when 'held' then 'pending' else jobs.state end
where jobs.lane = '' and excluded.lane <> ''

-- name: trace_jobs
-- In the transaction that made the jobs, and only for traced requests. A job that was there before keeps its context.
update jobs.jobs set traceparent = %(traceparent)s
where queue = 'dispatch' and stream = any(%(streams)b::uuid[]) and seq = 0 and traceparent = ''

-- name: take_ends
-- Close jobs whose final acks are on the log. The lease token stays, so that the dispatcher that holds the job and
-- appended this ack can still settle it. A job that is done stays done; a failure that an operator has replayed
-- since (replayed_after) is ignored.
insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, attempts, finished_at, last_error)
select 'dispatch', ack.stream, 0, 'send', '', ack.state, '', ack.attempt, now(), ack.error
from unnest(%(streams)b::uuid[], %(states)b::text[], %(attempts)b::integer[], %(errors)b::text[])
    as ack (stream, state, attempt, error)
on conflict (queue, stream, seq) do update set
    state = excluded.state,
    payload = case excluded.state when 'done' then ''::bytea else jobs.payload end,
    attempts = greatest(jobs.attempts, excluded.attempts),
    finished_at = now(),
    last_error = excluded.last_error
where jobs.state not in ('done', 'dead') and excluded.attempts > jobs.replayed_after
    or jobs.state <> 'done' and excluded.state = 'done'

-- name: take_deferrals
-- Count the attempts that acks on the log report, so that in a restored or rebuilt database the schedule continues where
-- it was. A lease of an earlier attempt than the ack's is one of the restored database; nobody holds it any more.
insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, attempts, due_at)
select 'dispatch', ack.stream, 0, 'send', '', 'held', '', ack.attempt, to_timestamp(ack.due / 1000.0)
from unnest(%(streams)b::uuid[], %(attempts)b::integer[], %(dues)b::bigint[]) as ack (stream, attempt, due)
on conflict (queue, stream, seq) do update set
    attempts = excluded.attempts,
    due_at = excluded.due_at,
    state = case jobs.state when 'attempting' then 'pending' else jobs.state end,
    lease_token = null
where jobs.state in ('held', 'pending', 'attempting') and jobs.attempts < excluded.attempts

-- name: acks_read
-- How far the acks were read, and the server that says so, in one row.
select pg_postmaster_start_time(), coalesce(array_agg(partition), '{}'), coalesce(array_agg(next_offset), '{}')
from jobs.next_offsets where queue = 'dispatch' and topic = 'provider-acks'

-- name: next_offsets
select topic, partition, next_offset from jobs.next_offsets where queue = 'dispatch'

-- name: marks
select topic, partition, last_offset, last_time, last_digest from jobs.next_offsets where queue = 'dispatch'

-- name: begin_partition
insert into jobs.next_offsets (queue, topic, partition, next_offset)
select 'dispatch', * from unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[])
on conflict do nothing

-- name: advance
-- Only from the offset that the reader started from: the transaction of a frozen predecessor fails here as a whole.
update jobs.next_offsets o set
    next_offset = moved.upto,
    last_offset = coalesce(moved.last_offset, o.last_offset),
    last_time = coalesce(moved.last_time, o.last_time),
    last_digest = coalesce(moved.last_digest, o.last_digest)
from unnest(
    %(topics)s::text[], %(partitions)s::integer[], %(expected)s::bigint[], %(upto)s::bigint[],
    %(last_offset)s::bigint[], %(last_time)s::bigint[], %(last_digest)s::bytea[]
) as moved (topic, partition, expected, upto, last_offset, last_time, last_digest)
where o.queue = 'dispatch' and o.topic = moved.topic and o.partition = moved.partition
    and o.next_offset = moved.expected
returning o.partition

-- name: sent_emails
-- Emails with an event that proves that they were sent.
select email_id::text from projections.history
where email_id = any(%(email_ids)b::uuid[])
    and status in ('sent', 'delivered', 'opened', 'clicked', 'bounced', 'complained')
