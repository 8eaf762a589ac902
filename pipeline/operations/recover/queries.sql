-- name: readers
-- How far each reader of the log has come, with the mark of the last record that it read.
select 'project', topic, partition, next_offset, last_offset, last_time, last_digest from projections.next_offsets
union all
select 'dispatch', topic, partition, next_offset, last_offset, last_time, last_digest from jobs.next_offsets
where queue = 'dispatch'
union all
select 'correlation', topic, partition, next_offset, last_offset, last_time, last_digest from correlation.next_offsets
union all
select 'project', topic, partition, next_offset, null, null, null from templates.next_offsets
union all
select 'project', topic, partition, next_offset, null, null, null from suppressions.next_offsets
order by 1, 2, 3

-- name: has_tenants
select exists (select from admin.tenants)

-- name: facts
-- All facts of the emails that changed since a time; through a server-side cursor.
select t.fact
from unnest(%(partitions)s::integer[], %(since)s::bigint[]) as lost (partition, since)
join projections.history h on h.partition = lost.partition
join projections.timeline t on t.email_id = h.email_id
where h.valid_from >= lost.since or t.recorded_at >= lost.since

-- name: open_requests
-- Requests that are not sent, or not known to be; through a server-side cursor.
select payload from jobs.jobs where queue = 'dispatch' and state <> 'done' and payload <> ''

-- name: decisions
-- All decisions in their order; through a server-side cursor.
select tenant, brand, encode(address_hash, 'hex'), reason, note, decided_by, at from suppressions.decisions order by nth

-- name: unlogged
-- Decisions of a backup that the log does not have, although all of it was read; and the number of templates.
select (select count(*) from suppressions.decisions where nth < 0 and %(is_read)s),
    (select count(*) from templates.versions)

-- name: templates
select template from templates.versions order by template_id, version

-- name: move_projections
update projections.next_offsets set
    next_offset = %(offset)s, rebuilding_to = case when %(end)s > %(offset)s then %(end)s::bigint end,
    last_offset = null, last_time = null, last_digest = null
where topic = %(topic)s and partition = %(partition)s

-- name: move_jobs
update jobs.next_offsets set next_offset = %(offset)s, last_offset = null, last_time = null, last_digest = null
where queue = 'dispatch' and topic = %(topic)s and partition = %(partition)s

-- name: move_correlation
update correlation.next_offsets set next_offset = %(offset)s, last_offset = null, last_time = null, last_digest = null
where topic = %(topic)s and partition = %(partition)s

-- name: move_templates
update templates.next_offsets set next_offset = %(offset)s where topic = %(topic)s and partition = %(partition)s

-- name: move_suppressions
update suppressions.next_offsets set next_offset = %(offset)s where topic = %(topic)s and partition = %(partition)s

-- name: free_places
-- Events that wait keep waiting, under places that no record has: another event may get theirs.
update correlation.parked p set place = -waiting.number
from (
    select partition, place, row_number() over (order by place desc) + (
        select coalesce(max(-place), 0) from correlation.parked where partition = %(partition)s and place < 0) as number
    from correlation.parked where partition = %(partition)s and place >= 0
) as waiting
where p.partition = waiting.partition and p.place = waiting.place
