-- name: claim_token
insert into intake.webhook_tokens (provider, token, digest, expires_at)
values (%(provider)s, %(token)s, %(digest)s, %(expires_at)s)
on conflict (provider, token) do nothing

-- name: claimed
-- A separate statement, so that it sees what another transaction committed while the first one waited.
select digest from intake.webhook_tokens where provider = %(provider)s and token = %(token)s

-- name: forget_tokens
delete from intake.webhook_tokens
where ctid = any(array(
    select ctid from intake.webhook_tokens where expires_at < %s order by expires_at limit 10000 for update skip locked
))

-- name: heard
insert into intake.webhooks_heard (provider, outcome, at, why)
values (%s, %s, to_timestamp(%s / 1000.0), %s)
on conflict (provider, outcome) do update set at = excluded.at, why = excluded.why
where webhooks_heard.at < excluded.at

-- name: last_heard
select outcome, at, why from intake.webhooks_heard where provider = %s
