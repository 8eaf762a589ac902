-- Events of types that we do not know: they are kept as `unknown`, and counted.
set local search_path to projections;

create index timeline_unknown on timeline (recorded_at) where kind = 'unknown';
