-- name: lock
-- First all rows that the batch touches, in one order, which is the outbox engine's, too: no two ever wait for each
-- other.
select from jobs.jobs where queue = 'dispatch' and stream = any(%(streams)b::uuid[]) order by stream, seq for update

-- name: take_requests
-- A request seen twice is one job. A job that its own ack made (a rebuilt database, or the ack was read first) gets
-- what it lacks; held: the ack was a deferral, and now there's something to send.
insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)
select 'dispatch', request.stream, 0, 'send', request.lane, 'pending', request.payload
from unnest(%(streams)b::uuid[], %(lanes)b::text[], %(payloads)b::bytea[]) as request (stream, lane, payload)
on conflict (queue, stream, seq) do update set
    lane = excluded.lane,
    payload = case jobs.state when 'done' then jobs.payload else excluded.payload end,
    state = case jobs.state when 'held' then 'pending' else jobs.state end
where jobs.lane = '' and excluded.lane <> ''

-- name: take_ends
-- What the log says became of an email, whoever heard it first. The lease's token stays, so that the dispatcher that
-- has the job in hand, and appended this very ack, may close it. Taken custody is never taken back; a failure that
-- somebody replayed since (replayed_after) is no longer the end.
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
-- Only news to a database that was rebuilt: the schedule goes on where it was.
insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, attempts, due_at)
select 'dispatch', ack.stream, 0, 'send', '', 'held', '', ack.attempt, to_timestamp(ack.due / 1000.0)
from unnest(%(streams)b::uuid[], %(attempts)b::integer[], %(dues)b::bigint[]) as ack (stream, attempt, due)
on conflict (queue, stream, seq) do update set attempts = excluded.attempts, due_at = excluded.due_at
where jobs.state in ('held', 'pending') and jobs.attempts < excluded.attempts

-- name: next_offsets
select topic, partition, next_offset from jobs.next_offsets where queue = 'dispatch'

-- name: begin_partition
insert into jobs.next_offsets (queue, topic, partition, next_offset)
select 'dispatch', * from unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[])
on conflict do nothing

-- name: advance
-- Only from the offset that the writer knew: a frozen predecessor's transaction fails here, whole.
update jobs.next_offsets o set next_offset = moved.upto
from unnest(%(topics)s::text[], %(partitions)s::integer[], %(expected)s::bigint[], %(upto)s::bigint[])
    as moved (topic, partition, expected, upto)
where o.queue = 'dispatch' and o.topic = moved.topic and o.partition = moved.partition
    and o.next_offset = moved.expected

-- name: heard_of
-- Emails of which somebody told what only happens to an email that was sent.
select email_id::text from projections.history
where email_id = any(%(email_ids)b::uuid[])
    and status in ('sent', 'delivered', 'opened', 'clicked', 'bounced', 'complained')
