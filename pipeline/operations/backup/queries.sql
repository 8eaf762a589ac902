-- name: snapshot
-- One snapshot for all tables, without any lock that others would wait for.
set transaction isolation level repeatable read, read only

-- name: moment
select (extract(epoch from clock_timestamp()) * 1000)::bigint

-- name: columns
select column_name from information_schema.columns where table_schema = %s and table_name = %s
order by ordinal_position

-- name: tables
-- Our tables, whatever schema they are in.
select schemaname || '.' || tablename from pg_tables
where schemaname not in ('pg_catalog', 'information_schema') order by 1

-- name: has_rows
select exists (select from {})

-- name: lock_tables
lock table {} in exclusive mode

-- name: shift_places
-- No place of another log: in order with each other, and before everything that is read from the log.
update suppressions.decisions set nth = nth - %(shift)s where nth >= 0

-- name: end_leases
-- The processes that held them are not those of this database: what they did is unknown.
update jobs.jobs set lease_token = null, due_at = least(due_at, now()) where state = 'attempting'
