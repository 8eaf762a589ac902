-- name: results_known_to
-- The server, and the time up to which its jobs have all results: of the last conversion that was finished, or, if it is
-- earlier, of the partition that the projector has projected least far. (The projector finishes conversions, too, and a
-- partition that it has not reached may have results of long before.) Where no conversion is finished, the time of the
-- first one. Seconds since the Unix epoch; null without any job.
select pg_postmaster_start_time(), extract(epoch from least(
    coalesce(
        (select max(finished_at) from jobs.jobs where queue = 'emit' and state = 'done'),
        (select min(created_at) from jobs.jobs where queue = 'emit')),
    (select to_timestamp(min(through) / 1000.0) from projections.next_offsets
        where topic = 'email-changes' and through > 0)))::float8
