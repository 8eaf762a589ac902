-- name: set_time_limits
select set_config(name, value, false)
from unnest(%(names)s::text[], %(values)s::text[]) as limits (name, value)

-- name: missing_time_limits
select name from unnest(%(names)s::text[]) as name where current_setting(name) = '0'
