-- Events of types that their provider has only lately: kept as unknown, and counted.
set local search_path to projections;

create index timeline_unknown on timeline (recorded_at) where kind = 'unknown';
