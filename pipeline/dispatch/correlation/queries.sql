-- name: alone
-- Allow one writing transaction at a time. The last one of a frozen predecessor may still be open: if both inserted
-- and then matched, neither would see the rows that the other has not committed.
select pg_advisory_xact_lock(hashtext('mailfold.correlation.writing'), 0)

-- name: learn
-- An id that two emails have identifies neither of them.
insert into correlation.provider_ids as known (message_id, provider, email_id, recorded_at)
select message_id, provider, case when count(distinct email_id) = 1 then min(email_id::text)::uuid end, max(recorded_at)
from unnest(%(message_ids)b::text[], %(providers)b::text[], %(email_ids)b::uuid[], %(recorded)b::bigint[])
    as ack (message_id, provider, email_id, recorded_at)
group by message_id, provider
on conflict (message_id, provider) do update set
    email_id = case when known.email_id = excluded.email_id then known.email_id end,
    recorded_at = greatest(known.recorded_at, excluded.recorded_at)

-- name: known
-- The emails that are known to have these ids.
select id.message_id, id.provider, id.email_id::text
from unnest(%(message_ids)b::text[], %(providers)b::text[]) as asked (message_id, provider)
join correlation.provider_ids id using (message_id, provider)
where id.email_id is not null

-- name: park
insert into correlation.parked (partition, place, message_id, provider, parked_at, event, claimed)
select * from unnest(
    %(partitions)b::integer[], %(places)b::bigint[], %(message_ids)b::text[], %(providers)b::text[],
    %(since)b::bigint[], %(events)b::bytea[], %(claimed)b::uuid[])
on conflict do nothing

-- name: evidence_of_claims
-- What tells that a provider got these emails, and the events with these ids that have counted.
select fact from projections.timeline
where email_id = any(%(email_ids)b::uuid[])
    and (kind in ('acked', 'deferred') or event_id = any(%(event_ids)b::text[]))

-- name: claims
-- A page of the parked events that name an email without proof.
select partition, place, event from correlation.parked
where claimed is not null and email_id is null and (partition, place) > (%(partition)s, %(place)s)
order by partition, place limit %(limit)s

-- name: accept_claims
update correlation.parked p set email_id = p.claimed
from unnest(%(partitions)b::integer[], %(places)b::bigint[]) as proven (partition, place)
where p.partition = proven.partition and p.place = proven.place and p.email_id is null

-- name: match
-- Set the email of parked events whose id is known by now; either side may have arrived first.
update correlation.parked p set email_id = id.email_id
from unnest(%(message_ids)b::text[], %(providers)b::text[]) as touched (message_id, provider)
join correlation.provider_ids id using (message_id, provider)
where p.message_id = id.message_id and p.provider = id.provider
    and p.email_id is null and id.email_id is not null

-- name: to_tell
select partition, place, email_id::text, event from correlation.parked
where email_id is not null order by partition, place limit %(limit)s

-- name: is_telling
select exists (select from correlation.parked where email_id is not null)

-- name: expired
select partition, place, message_id, provider, claimed::text, event from correlation.parked
where email_id is null and parked_at < %(before)s order by parked_at limit %(limit)s

-- name: unpark
delete from correlation.parked p
using unnest(%(partitions)b::integer[], %(places)b::bigint[]) as told (partition, place)
where p.partition = told.partition and p.place = told.place

-- name: give_up
-- Only rows that were not matched in the meantime.
delete from correlation.parked p
using unnest(%(partitions)b::integer[], %(places)b::bigint[]) as told (partition, place)
where p.partition = told.partition and p.place = told.place and p.email_id is null

-- name: forget_ids
delete from correlation.provider_ids where (message_id, provider) in (
    select message_id, provider from correlation.provider_ids where recorded_at < %(before)s limit %(limit)s)

-- name: parked
-- The count stops at a million, to stay cheap.
select count(*), min(parked_at) from (select parked_at from correlation.parked order by parked_at limit 1000000) as oldest

-- name: parked_as
select provider, message_id, parked_at, partition, place, event from correlation.parked
where message_id = %(message_id)s or claimed = %(claimed)s::uuid order by parked_at limit %(limit)s

-- name: next_offsets
select topic, partition, next_offset from correlation.next_offsets

-- name: marks
select topic, partition, last_offset, last_time, last_digest from correlation.next_offsets

-- name: begin_partition
insert into correlation.next_offsets (topic, partition, next_offset)
select * from unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[])
on conflict do nothing

-- name: advance
-- Only from the offset that the reader started from: the transaction of a frozen predecessor fails here as a whole.
update correlation.next_offsets o set
    next_offset = moved.upto,
    last_offset = coalesce(moved.last_offset, o.last_offset),
    last_time = coalesce(moved.last_time, o.last_time),
    last_digest = coalesce(moved.last_digest, o.last_digest)
from unnest(
    %(topics)s::text[], %(partitions)s::integer[], %(expected)s::bigint[], %(upto)s::bigint[],
    %(last_offset)s::bigint[], %(last_time)s::bigint[], %(last_digest)s::bytea[]
) as moved (topic, partition, expected, upto, last_offset, last_time, last_digest)
where o.topic = moved.topic and o.partition = moved.partition and o.next_offset = moved.expected
returning o.partition
