-- name: select_schema
-- The swap at the end of a rebuild takes this lock exclusively; projectors share it. The local search_path selects the
-- schema to write. Commits do not wait for fsync: rows and offsets are written together, so what a crash of Postgres
-- loses is read again. WAL is flushed in order, so no durable result of others can depend on rows that are lost.
-- A batch that took too long would take as long when it is repeated, so it may take longer than other statements.
select set_config('search_path', %(schema)s, true),
       set_config('synchronous_commit', 'off', true),
       set_config('statement_timeout', '10min', true),
       case when %(live)s then pg_advisory_xact_lock_shared(%(lock)s) end

-- name: next_offset
select next_offset, rebuilding_to from next_offsets where topic = %s and partition = %s

-- name: mark
select last_offset, last_time, last_digest from next_offsets where topic = %s and partition = %s

-- name: lock_offsets
-- In order, so that two projectors that have some partitions in common for a moment can't deadlock.
select partition, next_offset, rebuilding_to, through from next_offsets where topic = %s and partition = any(%s)
order by partition for update

-- name: first_offset
insert into next_offsets (topic, partition, next_offset, rebuilding_to, partitions) values (%s, %s, %s, %s, %s)
on conflict do nothing

-- name: advance
-- The rows are locked and their offsets were compared.
update next_offsets o
set next_offset = row.next, through = row.through, changed = greatest(o.changed, row.changed),
    rebuilding_to = case when o.rebuilding_to > row.next then o.rebuilding_to end,
    last_offset = coalesce(row.last_offset, o.last_offset), last_time = coalesce(row.last_time, o.last_time),
    last_digest = coalesce(row.last_digest, o.last_digest)
from unnest(
    %(partition)b::integer[], %(expected)b::bigint[], %(next)b::bigint[], %(through)b::bigint[], %(changed)b::bigint[],
    %(last_offset)b::bigint[], %(last_time)b::bigint[], %(last_digest)b::bytea[]
) as row (partition, expected, next, through, changed, last_offset, last_time, last_digest)
where o.topic = %(topic)s and o.partition = row.partition and o.next_offset = row.expected

-- name: current_states
-- A version of Mailfold without statistics changes a row and counts nothing, so what is counted is an older state then.
select h.email_id::text, h.version, h.valid_from, h.state, h.statistics_group, h.counted_version,
    case when h.counted_version not in (0, h.version) then (
        select v.state from versions v where v.email_id = h.email_id and v.version = h.counted_version) end
from history h where h.email_id = any(%b::uuid[])

-- name: uncounted_partition
select partition from history h where counted_version <> version
    and not exists (select from admin.deleted_tenants d where d.tenant = h.tenant)
order by valid_from limit 1

-- name: uncounted
-- The rows of a partition, which is locked, that an older version wrote last.
select h.email_id::text, h.version, h.valid_from, h.state, h.statistics_group, h.counted_version,
    case when h.counted_version <> 0 then (
        select v.state from versions v where v.email_id = h.email_id and v.version = h.counted_version) end
from history h
where h.counted_version <> h.version and h.partition = %(partition)s
    and not exists (select from admin.deleted_tenants d where d.tenant = h.tenant)
order by h.valid_from, h.email_id limit %(limit)s

-- name: closed_versions
select version, valid_from, valid_to, state from versions where email_id = any(%b::uuid[]) order by email_id, version

-- name: complete_versions
-- An older version wrote these without the columns that the history API filters by.
update versions v set
    status = row.status, facts = row.facts, provider = row.provider, bounce_class = row.bounce_class,
    bounce_code = row.bounce_code, suppressed_reason = row.suppressed_reason
from unnest(
    %(email_id)b::uuid[], %(version)b::integer[], %(status)b::text[], %(facts)b::integer[], %(provider)b::text[],
    %(bounce_class)b::text[], %(bounce_code)b::text[], %(suppressed_reason)b::text[]
) as row (email_id, version, status, facts, provider, bounce_class, bounce_code, suppressed_reason)
where v.email_id = row.email_id and v.version = row.version and v.facts is null

-- name: all_is_counted
delete from statistics_coverage where not exists (select from history where counted_version <> version)

-- name: deleted_tenants
select tenant from admin.deleted_tenants where tenant = any(%b::text[])

-- name: remove_emails
-- Of deleted tenants. Rows are there only where facts came before the request, which names the tenant.
with removed as (
    delete from history where email_id = any(%(email_ids)b::uuid[])
), removed_versions as (
    delete from versions where email_id = any(%(email_ids)b::uuid[])
), removed_readings as (
    delete from superseded_facts where email_id = any(%(email_ids)b::uuid[])
)
delete from timeline where email_id = any(%(email_ids)b::uuid[])

-- name: write_current
insert into history (
    email_id, partition, tenant, dialect, brand, brand_uuid, identity, message_id, recipient, kind,
    status, listed, sent_at, updated_at, version, valid_from, provider_ids, state,
    facts, provider, bounce_class, bounce_code, suppressed_reason, statistics_group, counted_version)
select email_id, partition, tenant, dialect, brand, brand_uuid, identity, message_id, recipient, kind,
    status, listed, sent_at, updated_at, version, valid_from, string_to_array(provider_ids, chr(31)), state,
    facts, provider, bounce_class, bounce_code, suppressed_reason, statistics_group, version
from unnest(
    %(email_id)b::uuid[], %(partition)b::integer[], %(tenant)b::text[], %(dialect)b::text[], %(brand)b::text[],
    %(brand_uuid)b::uuid[], %(identity)b::text[], %(message_id)b::text[], %(recipient)b::text[], %(kind)b::text[], %(status)b::text[],
    %(listed)b::text[], %(sent_at)b::bigint[], %(updated_at)b::bigint[], %(version)b::integer[],
    %(valid_from)b::bigint[], %(provider_ids)b::text[], %(state)b::bytea[], %(facts)b::integer[], %(provider)b::text[],
    %(bounce_class)b::text[], %(bounce_code)b::text[], %(suppressed_reason)b::text[], %(statistics_group)b::bigint[]
) as row (email_id, partition, tenant, dialect, brand, brand_uuid, identity, message_id, recipient, kind,
    status, listed, sent_at, updated_at, version, valid_from, provider_ids, state,
    facts, provider, bounce_class, bounce_code, suppressed_reason, statistics_group)
on conflict (email_id) do update set
    tenant = excluded.tenant, dialect = excluded.dialect, brand = excluded.brand, brand_uuid = excluded.brand_uuid,
    identity = excluded.identity, message_id = excluded.message_id, recipient = excluded.recipient,
    kind = excluded.kind, status = excluded.status, listed = excluded.listed, sent_at = excluded.sent_at,
    updated_at = excluded.updated_at, version = excluded.version, valid_from = excluded.valid_from,
    provider_ids = excluded.provider_ids, state = excluded.state,
    facts = excluded.facts, provider = excluded.provider, bounce_class = excluded.bounce_class,
    bounce_code = excluded.bounce_code, suppressed_reason = excluded.suppressed_reason,
    statistics_group = excluded.statistics_group, counted_version = excluded.counted_version

-- name: write_versions
insert into versions (
    email_id, version, tenant, brand_uuid, recipient, listed, sent_at, valid_from, valid_to, state,
    status, facts, provider, bounce_class, bounce_code, suppressed_reason)
select * from unnest(
    %(email_id)b::uuid[], %(version)b::integer[], %(tenant)b::text[], %(brand_uuid)b::uuid[], %(recipient)b::text[],
    %(listed)b::text[], %(sent_at)b::bigint[], %(valid_from)b::bigint[], %(valid_to)b::bigint[], %(state)b::bytea[],
    %(status)b::text[], %(facts)b::integer[], %(provider)b::text[], %(bounce_class)b::text[], %(bounce_code)b::text[], %(suppressed_reason)b::text[])

-- name: write_requests
-- An email's request as it was first known stays: a page as of a moment must not change later.
insert into requests (
    email_id, accepted_at, tenant, dialect, brand_uuid, message_id, recipient, recipient_domain, template, activity_id,
    action_group_id, action_id, trigger_hash, user_id)
select * from unnest(
    %(email_id)b::uuid[], %(accepted_at)b::bigint[], %(tenant)b::text[], %(dialect)b::text[], %(brand_uuid)b::uuid[],
    %(message_id)b::text[], %(recipient)b::text[], %(recipient_domain)b::text[], %(template)b::text[],
    %(activity_id)b::text[], %(action_group_id)b::text[], %(action_id)b::text[], %(trigger_hash)b::text[],
    %(user_id)b::text[])
on conflict (email_id) do nothing

-- name: keep_superseded_rows
-- The reading that the timeline has is superseded by the first later one of this batch.
insert into superseded_facts (email_id, event_id, revision, known_from, known_to, fact)
select t.email_id, t.event_id, t.revision, t.reading_known_from, min(row.known_from), t.fact
from unnest(%(email_id)b::uuid[], %(event_id)b::text[], %(revision)b::bigint[], %(known_from)b::bigint[])
    as row (email_id, event_id, revision, known_from)
join timeline t on t.email_id = row.email_id and t.event_id = row.event_id and row.revision > t.revision
group by t.email_id, t.event_id
on conflict do nothing

-- name: keep_superseded_readings
-- Readings that came and were corrected in one batch, unless the timeline has them or a later one already.
insert into superseded_facts (email_id, event_id, revision, known_from, known_to, fact)
select row.email_id, row.event_id, row.revision, row.known_from, row.known_to, row.fact
from unnest(
    %(email_id)b::uuid[], %(event_id)b::text[], %(revision)b::bigint[], %(known_from)b::bigint[],
    %(known_to)b::bigint[], %(fact)b::bytea[]
) as row (email_id, event_id, revision, known_from, known_to, fact)
left join timeline t on t.email_id = row.email_id and t.event_id = row.event_id
where row.known_to is not null and row.revision > coalesce(t.revision, -1)
on conflict do nothing

-- name: write_timeline
-- A repeated fact adds its place on the log, unless that is stored already; the first hundred places are kept, in the
-- order in which they came. A correction (an event with a higher revision) replaces the event.
insert into timeline (
    email_id, event_id, kind, occurred_at, recorded_at, places, revision, fact, known_from, places_known_from,
    reading_known_from)
select email_id, event_id, kind, occurred_at, recorded_at, string_to_array(places, ' '), revision, fact, known_from,
    string_to_array(places_known_from, ' ')::bigint[], reading_known_from
from unnest(
    %(email_id)b::uuid[], %(event_id)b::text[], %(kind)b::text[], %(occurred_at)b::bigint[],
    %(recorded_at)b::bigint[], %(places)b::text[], %(revision)b::bigint[], %(fact)b::bytea[], %(known_from)b::bigint[],
    %(places_known_from)b::text[], %(reading_known_from)b::bigint[]
) as row (email_id, event_id, kind, occurred_at, recorded_at, places, revision, fact, known_from, places_known_from,
    reading_known_from)
on conflict (email_id, event_id) do update set
    (places, places_known_from) = (
        select array_agg(place order by seen), array_agg(known_from order by seen) from (
            select place, min(nth) as seen, (array_agg(each.known_from order by nth))[1] as known_from
            from unnest(
                timeline.places || excluded.places,
                -- Rows of an earlier version have no times.
                coalesce(timeline.places_known_from, array_fill(null::bigint, array[cardinality(timeline.places)]))
                    || excluded.places_known_from
            ) with ordinality as each (place, known_from, nth)
            group by place order by seen limit 100
        ) as kept
    ),
    reading_known_from = case when excluded.revision > timeline.revision
        then excluded.reading_known_from else timeline.reading_known_from end,
    kind = case when excluded.revision > timeline.revision then excluded.kind else timeline.kind end,
    occurred_at = case when excluded.revision > timeline.revision then excluded.occurred_at else timeline.occurred_at end,
    recorded_at = case when excluded.revision > timeline.revision then excluded.recorded_at else timeline.recorded_at end,
    fact = case when excluded.revision > timeline.revision then excluded.fact else timeline.fact end,
    revision = greatest(excluded.revision, timeline.revision)
where excluded.revision > timeline.revision
    or not timeline.places @> excluded.places and cardinality(timeline.places) < 100

-- name: write_mails
-- Rows are written in the order of their ids, so that two partitions that write the same mails can't deadlock.
with fresh as (
    select v.email_id, count(*) as views
    from unnest(%(view_emails)b::uuid[], %(view_events)b::text[]) as v (email_id, event_id)
    where not exists (select from timeline t where t.email_id = v.email_id and t.event_id = v.event_id)
    group by v.email_id
), told as (
    select row.mail_id, row.tenant, row.updated_at, row.mail::jsonb as mail, coalesce(fresh.views, 0) + case
        when row.newly then (
            select count(*) from timeline t where t.email_id = row.email_id and t.event_id like 'extrahorizon:%%')
        else 0 end as views
    from unnest(
        %(email_id)b::uuid[], %(mail_id)b::text[], %(tenant)b::text[], %(updated_at)b::bigint[], %(newly)b::boolean[],
        %(mail)b::text[]
    ) as row (email_id, mail_id, tenant, updated_at, newly, mail)
    left join fresh using (email_id)
), mail as (
    select mail_id, min(tenant) as tenant, sum(views)::bigint as views, max(updated_at) as updated_at,
        (array_agg(mail) filter (where mail is not null))[1] as mail
    from told group by mail_id
)
insert into mails (mail_id, tenant, created_at, views, updated_at, mail)
select mail_id, tenant, (mail ->> 'creation_timestamp')::bigint, views, updated_at,
    mail || jsonb_build_object('views', views, 'update_timestamp', updated_at)
from mail order by mail_id
on conflict (mail_id) do update set
    created_at = coalesce(excluded.created_at, mails.created_at),
    views = mails.views + excluded.views,
    updated_at = greatest(mails.updated_at, excluded.updated_at),
    mail = coalesce(excluded.mail, mails.mail) || jsonb_build_object(
        'views', mails.views + excluded.views, 'update_timestamp', greatest(mails.updated_at, excluded.updated_at))

-- name: add_evidence
insert into evidence (tenant, brand, address_hash, email_id, reason, event_id, at)
select * from unnest(
    %(tenant)b::text[], %(brand)b::text[], %(address_hash)b::bytea[], %(email_id)b::uuid[], %(reason)b::text[],
    %(event_id)b::text[], %(at)b::bigint[])
on conflict (tenant, address_hash, brand, email_id, reason) do update set event_id = excluded.event_id, at = excluded.at

-- name: remove_evidence
delete from evidence where (tenant, address_hash, brand, email_id, reason) in (
    select tenant, address_hash, brand, email_id, reason
    from unnest(
        %(tenant)b::text[], %(brand)b::text[], %(address_hash)b::bytea[], %(email_id)b::uuid[], %(reason)b::text[]
    ) as row (tenant, brand, address_hash, email_id, reason))

-- name: add_identities
insert into intake.identities (email_id, fingerprint, recorded_at)
select * from unnest(%(email_id)b::uuid[], %(fingerprint)b::bytea[], %(recorded_at)b::bigint[])
on conflict do nothing

-- name: expire_identities
-- In batches of their own transactions (pipeline/runtime/postgres/retention.py); locked rows are skipped.
delete from intake.identities where ctid = any(array(
    select ctid from intake.identities
    where recorded_at < (extract(epoch from now()) - %(days)s * 86400) * 1000
    order by recorded_at limit %(limit)s for update skip locked
))

-- name: add_jobs
-- Each word gets a number when it is first owed, and keeps it. A word that has a job already is not changed.
insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, traceparent, finished_at)
select 'emit', debt.stream,
    coalesce((select max(seq) from jobs.jobs where queue = 'emit' and stream = debt.stream), 0)
        + row_number() over (partition by debt.stream order by debt.nth),
    debt.name, debt.lane, debt.state, case when debt.state = 'done' then '' else debt.payload end,
    debt.traceparent, case when debt.state in ('done', 'dead') then now() end
from unnest(
    %(stream)b::uuid[], %(name)b::text[], %(lane)b::text[], %(state)b::text[], %(payload)b::bytea[],
    %(traceparent)b::text[]
) with ordinality as debt (stream, name, lane, state, payload, traceparent, nth)
where not exists (
    select from jobs.jobs where queue = 'emit' and stream = debt.stream and name = debt.name)
on conflict (queue, stream, name) do nothing

-- name: close_jobs
-- A job that was given up becomes dead, unless it was replayed since. The lease token stays, so that an emitter that
-- holds the job notices that it is closed. The email's next jobs become due. A locked job is skipped: the emitter that
-- appended its result is closing it at this moment, and two that wait for each other's jobs would deadlock.
with told as (
    select j.stream, j.seq, told.state
    from unnest(%(stream)b::uuid[], %(name)b::text[], %(state)b::text[]) as told (stream, name, state)
    join jobs.jobs j on j.queue = 'emit' and j.stream = told.stream and j.name = told.name
    where j.state <> 'done' and (told.state = 'done' or (j.state <> 'dead' and j.replayed_after = 0))
    for update of j skip locked
), closed as (
    update jobs.jobs j set
        state = told.state,
        payload = case when told.state = 'done' then ''::bytea else j.payload end,
        finished_at = now()
    from told
    where j.queue = 'emit' and j.stream = told.stream and j.seq = told.seq
    returning j.stream, j.seq
)
update jobs.jobs j set due_at = now()
from (select stream, max(seq) as seq from closed group by stream) head
where j.queue = 'emit' and j.stream = head.stream and j.seq > head.seq and j.state = 'pending' and j.due_at > now()

-- name: release_jobs
-- The first read of a partition has reached its end: conversions that are owed and not settled become due.
update jobs.jobs set state = 'pending', due_at = now()
from history
where jobs.queue = 'emit' and jobs.state = 'held'
    and history.email_id = jobs.stream and history.partition = any(%s)

-- name: notify_emitters
select pg_notify('jobs_emit', '')
