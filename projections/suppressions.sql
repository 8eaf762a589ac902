-- name: reasons
-- All that concerns these addresses: decisions for the brand or for all brands, and the brand's evidence. "offset 0"
-- makes the planner look up each address by an index, whatever the statistics say; otherwise it may join whole tables.
-- States do not contain the event of an unsubscribe, so it is looked up in the timeline. An address (a number) may have
-- two hashes: today's, and the one of earlier versions. If the older hash is also another address's, only rows from
-- before the change of keys count.
with asked as (
    select tenant, brand, address_hash, number,
        case when shared then coalesce((select changed_at from suppressions.key_change), 0) end as until
    from unnest(%(tenants)b::text[], %(brands)b::text[], %(hashes)b::bytea[], %(numbers)b::int[], %(shared)b::bool[])
        as asked (tenant, brand, address_hash, number, shared)
)
select asked.number, d.brand, d.nth, d.at, d.decided_by, d.reason, d.note, null::text as email_id, '' as event_id
from asked cross join lateral (
    select * from suppressions.decisions
    where tenant = asked.tenant and address_hash = asked.address_hash and brand in (asked.brand, '*')
        and (asked.until is null or at <= asked.until) offset 0) as d
union all
select asked.number, asked.brand, null, e.at, '', e.reason, '', e.email_id::text, coalesce(nullif(e.event_id, ''), (
    select t.event_id from projections.timeline t where t.email_id = e.email_id and t.kind = 'unsubscribed'
    order by t.occurred_at desc, t.event_id limit 1), '')
from asked cross join lateral (
    select * from projections.evidence
    where tenant = asked.tenant and address_hash = asked.address_hash and brand = asked.brand
        and (reason <> 'soft bounce' or at > %(soft_since)s) and (asked.until is null or at <= asked.until) offset 0) as e

-- name: last_deliveries
-- When the last delivered email of these brands to these addresses was sent. It is needed for few addresses: those with
-- enough soft bounces to be suppressed. The history has addresses as they were written, as the bounced emails do.
with asked as (
    select * from unnest(
        %(tenants)b::text[], %(brands)b::text[], %(hashes)b::bytea[], %(numbers)b::int[], %(shared)b::bool[]
    ) as asked (tenant, brand, address_hash, number, shared)
)
select asked.number, max(h.sent_at)
from asked cross join lateral (
    select distinct bounced.recipient from projections.evidence e join projections.history bounced using (email_id)
    where e.tenant = asked.tenant and e.address_hash = asked.address_hash and e.brand = asked.brand
        and e.reason = 'soft bounce' and e.at > %(soft_since)s offset 0) as spelled
cross join lateral (
    select sent_at from projections.history
    where recipient = spelled.recipient and tenant = asked.tenant and brand = asked.brand
        and status in ('delivered', 'opened', 'clicked') offset 0) as h
group by asked.number having max(h.sent_at) is not null

-- name: keys
-- All hashes that may be suppressed, in their order, so that new ones do not move what is on earlier pages.
select address_hash, brand from (
    (select address_hash, brand from suppressions.decisions
    where tenant = %(tenant)s and (address_hash, brand) > (%(address_hash)s, %(after_brand)s)
    order by address_hash, brand limit %(limit)s)
    union
    (select address_hash, brand from projections.evidence
    where tenant = %(tenant)s and (address_hash, brand) > (%(address_hash)s, %(after_brand)s)
    group by address_hash, brand order by address_hash, brand limit %(limit)s)
) as known
order by address_hash, brand limit %(limit)s

-- name: keys_for
-- The same for one brand: each hash once, whether a row concerns this brand or all brands.
select address_hash, %(brand)s::text from (
    (select address_hash from suppressions.decisions
    where tenant = %(tenant)s and address_hash > %(address_hash)s and brand in (%(brand)s, '*')
    group by address_hash order by address_hash limit %(limit)s)
    union
    (select address_hash from projections.evidence
    where tenant = %(tenant)s and address_hash > %(address_hash)s and brand = %(brand)s
    group by address_hash order by address_hash limit %(limit)s)
) as known
order by address_hash limit %(limit)s

-- name: keys_of
-- The same for one address.
select brand from suppressions.decisions where tenant = %(tenant)s and address_hash = any(%(hashes)s)
union
select brand from projections.evidence where tenant = %(tenant)s and address_hash = any(%(hashes)s)
order by brand

-- name: listed
-- Which of these are listed already, by a decision for exactly this brand that no later lift has ended. A lift for one
-- brand also ends a part of a decision for all brands, so deciding for all brands again does change something.
with asked as (
    select * from unnest(%(tenants)b::text[], %(brands)b::text[], %(hashes)b::bytea[])
        with ordinality as asked (tenant, brand, address_hash, number)
)
select asked.number, d.reason, d.note
from asked cross join lateral (
    select * from suppressions.decisions own
    where own.tenant = asked.tenant and own.address_hash = asked.address_hash and own.brand = asked.brand
        and own.reason is not null and not exists (
            select from suppressions.decisions lift
            where lift.tenant = asked.tenant and lift.address_hash = asked.address_hash and lift.nth > own.nth
                and lift.reason is null and '*' in (lift.brand, asked.brand)) offset 0) as d

-- name: addresses
-- The address of each hash, if an email with evidence about it is still in the history.
select asked.address_hash, known.recipient
from unnest(%(hashes)b::bytea[]) as asked (address_hash) cross join lateral (
    select h.recipient from projections.evidence e join projections.history h using (email_id)
    where e.tenant = %(tenant)s and e.address_hash = asked.address_hash and h.recipient <> '' limit 1) as known

-- name: next_offset
select next_offset from suppressions.next_offsets where topic = %s and partition = %s

-- name: first_offset
insert into suppressions.next_offsets (topic, partition, next_offset) values (%s, %s, %s) on conflict do nothing

-- name: advance
-- Only from the offset that the writer read: of two projectors that read the same records, one writes them.
update suppressions.next_offsets set next_offset = %(next)s
where topic = %(topic)s and partition = %(partition)s and next_offset = %(expected)s

-- name: decide
-- The later record counts; reading the topic again from its beginning changes nothing. A decision that a backup restored
-- has a negative place, and counts until the log has one that is as late. On a log that was restored to an older moment
-- later decisions have smaller places.
-- Deleted tenants have none.
insert into suppressions.decisions (tenant, brand, address_hash, reason, note, decided_by, at, nth)
select row.* from unnest(
    %(tenants)b::text[], %(brands)b::text[], %(hashes)b::bytea[], %(reasons)b::text[], %(notes)b::text[],
    %(by)b::text[], %(at)b::bigint[], %(nth)b::bigint[]) as row (tenant)
where not exists (select from admin.deleted_tenants d where d.tenant = row.tenant)
on conflict (tenant, address_hash, brand) do update set
    reason = excluded.reason, note = excluded.note, decided_by = excluded.decided_by, at = excluded.at,
    nth = excluded.nth
where case
    when suppressions.decisions.nth < 0 then excluded.at >= suppressions.decisions.at
    else excluded.nth > suppressions.decisions.nth or excluded.at > suppressions.decisions.at
end
