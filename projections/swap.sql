-- name: columns
-- Since when a fact is known is compared unless an older version wrote facts, which leaves it empty.
select column_name from information_schema.columns
where table_schema = 'projections' and table_name = %s
    and column_name not in ('rebuilding_to', 'last_offset', 'last_time', 'last_digest')
    and column_name not in ('statistics_group', 'counted_version')
    and not (
        table_name = 'timeline' and column_name in ('known_from', 'places_known_from', 'reading_known_from')
        and exists (select from projections.timeline where known_from is null))
order by column_name

-- name: debts_of_rebuilt
-- Conversions that the rebuilt states owe, beside the existing jobs; read in chunks through a server-side cursor.
select h.state,
    array(select name from jobs.jobs j where j.queue = 'emit' and j.stream = h.email_id order by seq),
    array(select state from jobs.jobs j where j.queue = 'emit' and j.stream = h.email_id order by seq)
from projections_rebuild.history h where h.dialect = %s

-- name: jobs_without_email
select count(*) from jobs.jobs j where j.queue = 'emit'
    and not exists (select from projections_rebuild.history h where h.email_id = j.stream)

-- name: keep_held
update projections_rebuild.next_offsets r set rebuilding_to = l.rebuilding_to
from projections.next_offsets l where (l.topic, l.partition) = (r.topic, r.partition)

-- name: live_complete_from
select complete_from from projections.statistics_coverage
union all
(select valid_from from projections.history where counted_version <> version limit 1)

-- name: analytics_views
-- Without a search path, so that the definitions name the schemas.
select relname, pg_get_viewdef(oid) from (select set_config('search_path', '', true)) as path, pg_class
where relkind = 'v' and relnamespace = 'analytics'::regnamespace order by relname
