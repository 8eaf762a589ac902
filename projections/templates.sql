-- name: next_offset
select next_offset from templates.next_offsets where topic = %s and partition = %s

-- name: first_offset
insert into templates.next_offsets (topic, partition, next_offset) values (%s, %s, %s) on conflict do nothing

-- name: advance
-- Only from the offset that the writer read: of two projectors that read the same records, one writes them.
update templates.next_offsets set next_offset = %(next)s
where topic = %(topic)s and partition = %(partition)s and next_offset = %(expected)s

-- name: add
-- A version never changes: the first record with its number counts.
-- Deleted tenants have none.
insert into templates.versions (template_id, version, tenant, name, hash, recorded_at, template)
select %(template_id)s::uuid, %(version)s::integer, %(tenant)s::text, %(name)s::text, %(hash)s::text,
    %(recorded_at)s::bigint, %(template)s::bytea
where not exists (select from admin.deleted_tenants where tenant = %(tenant)s::text)
on conflict do nothing

-- name: reserve_projected
insert into intake.template_versions (template_id, version, hash)
select template_id, version, hash from templates.versions
where template_id = %(template_id)s and version = %(version)s
on conflict do nothing

-- name: reserve_version
insert into intake.template_versions (template_id, version, hash)
values (%(template_id)s, %(version)s, %(hash)s) on conflict do nothing

-- name: lock_template
select pg_advisory_xact_lock(hashtextextended(%s, 0))

-- name: latest
select version, hash from intake.template_versions where template_id = %s order by version desc limit 1

-- name: find
-- Find the newest version by id, name or hash. A hash identifies a content, so any version with it will do.
select template from templates.versions
where tenant = %(tenant)s and (%(version)s::integer is null or version = %(version)s)
    and (name = %(name)s or hash = %(name)s or template_id = %(id)s::uuid) and name <> '@localizations'
order by version desc limit 1

-- name: localizations
-- Localizations are stored as a template whose name no other template can have.
select template from templates.versions
where tenant = %s and name = '@localizations' order by version desc limit 1

-- name: exact
select hash from templates.versions where template_id = %s and version = %s

-- name: list
select distinct on (name) template_id::text, name, version, hash, recorded_at,
    count(*) over (partition by name) as versions
from templates.versions where tenant = %s and name <> '@localizations' order by name, version desc
