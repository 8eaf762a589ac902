-- name: add
insert into exports.jobs (export_id, tenant, request, as_of)
select %(export_id)s, %(tenant)s, %(request)s, %(as_of)s
where (select count(*) from exports.jobs where tenant = %(tenant)s and state in ('pending', 'running')) < %(max_open)s
returning export_id

-- name: find
select export_id::text, request, state, emails, rows, bytes, checksum, error,
    (extract(epoch from created_at) * 1000)::bigint, (extract(epoch from finished_at) * 1000)::bigint,
    (extract(epoch from expires_at) * 1000)::bigint
from exports.jobs where export_id = %(export_id)s and tenant = %(tenant)s

-- name: claim
-- A running export whose lease is over was left by a gateway that died; it is continued after its last chunk.
update exports.jobs set state = 'running', lease_token = %(token)s, lease_until = now() + make_interval(secs => %(lease_s)s)
where export_id = (
    select export_id from exports.jobs
    where state in ('pending', 'running') and (lease_until is null or lease_until < now())
    order by created_at limit 1 for update skip locked)
returning export_id::text, request, position, chunks, bytes

-- name: renew
update exports.jobs set lease_until = now() + make_interval(secs => %(lease_s)s)
where export_id = %(export_id)s and lease_token = %(token)s and state = 'running'

-- name: release
update exports.jobs set lease_until = null where export_id = %(export_id)s and lease_token = %(token)s

-- name: add_progress
update exports.jobs set chunks = chunks + 1, emails = emails + %(emails)s, rows = rows + %(rows)s,
    bytes = bytes + %(size)s, position = %(position)s, lease_until = now() + make_interval(secs => %(lease_s)s)
where export_id = %(export_id)s and lease_token = %(token)s and state = 'running' and chunks = %(nth)s

-- name: add_chunk
insert into exports.chunks (export_id, nth, first_byte, data)
select %(export_id)s, %(nth)s, bytes - %(size)s, %(data)s from exports.jobs where export_id = %(export_id)s

-- name: finish
update exports.jobs set state = %(state)s, checksum = %(checksum)s, error = %(error)s, finished_at = now(),
    expires_at = now() + make_interval(days => %(days)s), lease_until = null, lease_token = null
where export_id = %(export_id)s and lease_token = %(token)s

-- name: chunk
select data from exports.chunks where export_id = %(export_id)s and nth = %(nth)s

-- name: chunk_at
select nth, first_byte from exports.chunks
where export_id = %(export_id)s and first_byte <= %(first_byte)s order by nth desc limit 1

-- name: expire_files
-- One export at a time: its file may be large.
with expired as (
    select export_id from exports.jobs where state in ('done', 'failed') and expires_at < now()
    order by expires_at limit 1 for update skip locked
), emptied as (
    delete from exports.chunks where export_id in (select export_id from expired)
)
update exports.jobs set state = 'expired', request = '', position = null
where export_id in (select export_id from expired)

-- name: expire_jobs
delete from exports.jobs where ctid = any(array(
    select ctid from exports.jobs where state = 'expired' and expires_at < now() - make_interval(days => %(days)s)
    limit %(limit)s for update skip locked))
