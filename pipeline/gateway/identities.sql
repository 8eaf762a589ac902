-- name: reserve
-- Reserve identities: the first request gets one, and a concurrent request waits here until the first one commits.
-- In the order of the ids, so that two batches with the same emails can't deadlock.
insert into intake.identities (email_id, fingerprint, recorded_at)
select r.email_id, r.fingerprint, %(now)s
from unnest(%(ids)b::uuid[], %(fingerprints)b::bytea[]) as r (email_id, fingerprint)
order by r.email_id
on conflict (email_id) do nothing

-- name: conflicting
-- Those of these emails whose identity belongs to another recipient or brand. It is a separate statement, so that it sees
-- what another transaction committed while the first one waited.
select r.email_id
from unnest(%(ids)b::uuid[], %(fingerprints)b::bytea[]) as r (email_id, fingerprint)
join intake.identities i using (email_id)
where i.fingerprint <> r.fingerprint
