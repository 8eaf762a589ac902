-- name: level
select level from admin.feature_level

-- name: raise_level
insert into admin.feature_level (level) values (%(level)s)
on conflict (one) do update set level = excluded.level, finished_at = now() where feature_level.level < excluded.level

-- name: other_versions
-- Processes of the first release set no name. A user who may not see other users' sessions sees null.
select application_name, count(*)::integer from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
    and (application_name = '' or application_name like 'mailfold/%%') and application_name <> %(name)s
group by 1 order by 1
