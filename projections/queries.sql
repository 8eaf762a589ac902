-- name: watermark
-- The time up to which every partition is projected; null until each partition has been projected once.
select case when count(*) >= max(partitions) then min(through) end from projections.next_offsets where topic = %s

-- name: replay_age
-- Null on a server that replays nothing, such as a primary.
select extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 where pg_is_in_recovery()

-- name: partition_times
select partition, through, changed from projections.next_offsets where topic = %s

-- name: page
-- Each email as it was at as_of: its current version if that is old enough, otherwise the version that was valid at that
-- time. Current versions are read from an index in order. Of the others there are only as many as emails were on their
-- way at that time. This statement is never prepared, so that the planner removes filters that are null.
select email_id::text, sent_at, state from (
    (select email_id, sent_at, state from projections.history
    where tenant = %(tenant)s and listed is not null and valid_from <= %(as_of)s and sent_at <= %(as_of)s
        and (%(listed)s::text is null or listed = %(listed)s)
        and (%(brand_uuid)s::uuid is null or brand_uuid = %(brand_uuid)s)
        and (%(sent_at)s::bigint is null or (sent_at, email_id) < (%(sent_at)s::bigint, %(email_id)s::uuid))
    order by sent_at desc, email_id desc limit %(limit)s)
    union all
    (select email_id, sent_at, state from projections.versions
    where tenant = %(tenant)s and listed is not null and int8range(valid_from, valid_to) @> %(as_of)s::bigint
        and sent_at <= %(as_of)s
        and (%(listed)s::text is null or listed = %(listed)s)
        and (%(brand_uuid)s::uuid is null or brand_uuid = %(brand_uuid)s)
        and (%(sent_at)s::bigint is null or (sent_at, email_id) < (%(sent_at)s::bigint, %(email_id)s::uuid))
    order by sent_at desc, email_id desc limit %(limit)s)
) as then_and_now
order by sent_at desc, email_id desc limit %(limit)s

-- name: page_of_recipient
-- An address has few emails, so they are sorted without an index.
select email_id::text, sent_at, state from (
    select email_id, sent_at, state from projections.history
    where recipient = %(recipient)s and tenant = %(tenant)s and listed is not null and valid_from <= %(as_of)s
        and (%(brand_uuid)s::uuid is null or brand_uuid = %(brand_uuid)s)
    union all
    select email_id, sent_at, state from projections.versions
    where recipient = %(recipient)s and tenant = %(tenant)s and listed is not null
        and valid_from <= %(as_of)s and valid_to > %(as_of)s
        and (%(brand_uuid)s::uuid is null or brand_uuid = %(brand_uuid)s)
) as then_and_now
where %(sent_at)s::bigint is null or (sent_at, email_id) < (%(sent_at)s::bigint, %(email_id)s::uuid)
order by sent_at desc, email_id desc limit %(limit)s

-- name: emails_known_as
-- Find emails by email_id, activity.id, address or provider's message id (with or without brackets); each has an index.
select email_id::text, tenant, sent_at from (
    select email_id, tenant, coalesce(sent_at, updated_at) as sent_at from projections.history
    where email_id = %(email_id)s::uuid
    union
    select email_id, tenant, coalesce(sent_at, updated_at) from projections.history
    where identity = %(text)s and identity <> ''
    union
    select email_id, tenant, coalesce(sent_at, updated_at) from projections.history where recipient = any(%(addresses)s)
    union
    select email_id, tenant, coalesce(sent_at, updated_at) from projections.history
    where provider_ids && %(provider_ids)s::text[]
) as known
where %(tenant)s::text is null or tenant = %(tenant)s
order by sent_at desc, email_id desc limit %(limit)s

-- name: history_of
select version, valid_from, state, partition from projections.history where email_id = %s

-- name: timeline_of
select places, fact from projections.timeline where email_id = %s

-- name: jobs_of
-- The infinite due time of a job behind an unknown one becomes null: a Python datetime cannot hold it.
select j.queue, j.seq, j.name, j.lane, j.state, j.attempts, nullif(j.due_at, 'infinity') as due_at,
    j.created_at, j.finished_at, j.last_error,
    l.paused_at, coalesce(l.paused_reason, '') as paused_reason,
    case when l.open_until > now() then l.open_until end as open_until,
    j.queue = 'dispatch' and exists (
        select from admin.tenants t where t.tenant = split_part(j.lane, '/', 1) and t.suspended_at is not null
    ) as is_suspended
from jobs.jobs j left join jobs.lanes l using (queue, lane)
where j.stream = %s order by j.queue, j.seq

-- name: projected
select topic, partition, next_offset, rebuilding_to from projections.next_offsets order by partition

-- name: dispatched
select topic, partition, next_offset from jobs.next_offsets order by topic, partition

-- name: jobs_by_state
select queue, state, count(*), min(created_at) from jobs.jobs where state <> 'done' group by queue, state
order by queue, state

-- name: oldest_owed
select stream::text, name, lane, created_at, last_error from jobs.jobs
where queue = 'emit' and state in ('held', 'pending', 'attempting', 'unknown') order by created_at limit 1

-- name: paused_lanes
select queue, lane, paused_at, paused_reason, case when open_until > now() then open_until end
from jobs.lanes where paused_at is not null or open_until > now() order by queue, lane
