-- name: progress
-- How far the dispatcher has read the requests. It is read before a slice: the jobs of these requests are there then.
select partition, next_offset from jobs.next_offsets where queue = 'dispatch' and topic = 'send-requests'

-- name: slice
-- The next emails by the time at which their ids were reserved, each with what its history and its job say. Two index
-- look-ups for each email.
select email.email_id::text, history.tenant is not null, history.listed is not null, coalesce(history.status, ''),
    coalesce(job.state, ''), (extract(epoch from coalesce(job.finished_at, job.created_at)) * 1000)::bigint,
    email.recorded_at
from (
    select email_id, recorded_at from intake.identities
    where recorded_at >= %(from)s and recorded_at < %(until)s and (recorded_at, email_id) > (%(from)s, %(after)s::uuid)
    order by recorded_at, email_id limit %(limit)s
) as email
left join projections.history using (email_id)
left join jobs.jobs job on job.queue = 'dispatch' and job.stream = email.email_id and job.seq = 0
order by email.recorded_at, email.email_id

-- name: request_places
select email_id::text, places from projections.timeline
where event_id = %(event_id)s and email_id = any(%(email_ids)b::uuid[])
