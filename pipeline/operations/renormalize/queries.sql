-- name: timeline
-- Facts of these emails: those with these ids, and those from webhooks that arrived at these times.
select email_id::text, event_id, fact from projections.timeline
where email_id = any(%(email_ids)b::uuid[])
    and (event_id = any(%(event_ids)b::text[]) or recorded_at = any(%(received)b::bigint[]))

-- name: waiting
-- Parked events of these messages, and those that claim these emails.
select p.event
from unnest(%(message_ids)b::text[], %(providers)b::text[]) as asked (message_id, provider)
join correlation.parked p using (message_id, provider)
union all
select event from correlation.parked where claimed = any(%(claimed)b::uuid[])
