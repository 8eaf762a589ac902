-- name: reserve
-- Whoever comes first owns the identity; a concurrent request waits here until the first commits.
-- In the order of the ids, so that two batches with the same emails don't wait for each other.
insert into intake.identities (email_id, fingerprint, recorded_at)
select r.email_id, r.fingerprint, %(now)s
from unnest(%(ids)b::uuid[], %(fingerprints)b::bytea[]) as r (email_id, fingerprint)
order by r.email_id
on conflict (email_id) do nothing

-- name: conflicting
-- Of these, whose identity belongs to another recipient or brand. A statement of its own: it must
-- see what was committed while the first one waited.
select r.email_id
from unnest(%(ids)b::uuid[], %(fingerprints)b::bytea[]) as r (email_id, fingerprint)
join intake.identities i using (email_id)
where i.fingerprint <> r.fingerprint
