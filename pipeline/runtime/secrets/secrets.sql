-- name: lock
-- Two roles that start at once with different secrets must not both be the first.
lock table admin.secret_fingerprints in exclusive mode

-- name: known
select purpose, fingerprint from admin.secret_fingerprints order by first_used_at, fingerprint

-- name: remember
insert into admin.secret_fingerprints (purpose, fingerprint)
select * from unnest(%(purposes)b::text[], %(fingerprints)b::text[]) on conflict do nothing

-- name: forget_others
delete from admin.secret_fingerprints
where (purpose, fingerprint) not in (select * from unnest(%(purposes)b::text[], %(fingerprints)b::text[]))
