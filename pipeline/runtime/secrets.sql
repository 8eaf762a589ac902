-- name: known
select purpose, fingerprint from admin.secret_fingerprints order by first_used_at, fingerprint

-- name: remember
insert into admin.secret_fingerprints (purpose, fingerprint)
select * from unnest(%(purposes)b::text[], %(fingerprints)b::text[]) on conflict do nothing

-- name: forget_others
delete from admin.secret_fingerprints
where (purpose, fingerprint) not in (select * from unnest(%(purposes)b::text[], %(fingerprints)b::text[]))
