-- The rollups (projections/statistics.py). projections/sink.py executes these in the projector's transaction.

-- name: campaigns
select partition, tenant, month, brand, template, activity_id, action_group_id from statistics_campaigns
where (partition, tenant, month) in (
    select * from unnest(%(partition)b::integer[], %(tenant)b::text[], %(month)b::integer[]))

-- name: add_campaigns
insert into statistics_campaigns (partition, tenant, month, brand, template, activity_id, action_group_id)
select * from unnest(
    %(partition)b::integer[], %(tenant)b::text[], %(month)b::integer[], %(brand)b::text[], %(template)b::text[],
    %(activity_id)b::text[], %(action_group_id)b::text[])

-- name: add_groups
-- In the order of their ids: transactions of several partitions may add the same groups.
insert into statistics_groups (
    group_id, tenant, brand, dialect, template, recipient_domain, activity_id, action_group_id)
select * from unnest(
    %(group_id)b::bigint[], %(tenant)b::text[], %(brand)b::text[], %(dialect)b::text[], %(template)b::text[],
    %(recipient_domain)b::text[], %(activity_id)b::text[], %(action_group_id)b::text[])
on conflict do nothing

-- name: add_statistics
insert into statistics as s (
    tenant, by_event, slot, group_id, provider, partition, accepted, attempted, sent, deferred, delivered, dropped,
    failed, bounced_hard, bounced_soft, bounced_block, complained, unsubscribed, opened_human, opened_machine, opened,
    clicked_human, clicked_machine, clicked, opens_human, opens_machine, clicks_human, clicks_machine,
    conversions_owed, conversions_told, conversions_refused, conversions_dead, time_to_deliver, time_to_open,
    time_to_click)
select
    tenant, by_event, slot, group_id, provider, partition, accepted, attempted, sent, deferred, delivered, dropped,
    failed, bounced_hard, bounced_soft, bounced_block, complained, unsubscribed, opened_human, opened_machine, opened,
    clicked_human, clicked_machine, clicked, opens_human, opens_machine, clicks_human, clicks_machine,
    conversions_owed, conversions_told, conversions_refused, conversions_dead, nullif(time_to_deliver, '')::integer[],
    nullif(time_to_open, '')::integer[], nullif(time_to_click, '')::integer[]
from unnest(
    %(tenant)b::text[], %(by_event)b::boolean[], %(slot)b::integer[], %(group_id)b::bigint[], %(provider)b::text[],
    %(partition)b::integer[], %(accepted)b::integer[], %(attempted)b::integer[], %(sent)b::integer[],
    %(deferred)b::integer[], %(delivered)b::integer[], %(dropped)b::integer[], %(failed)b::integer[],
    %(bounced_hard)b::integer[], %(bounced_soft)b::integer[], %(bounced_block)b::integer[], %(complained)b::integer[],
    %(unsubscribed)b::integer[], %(opened_human)b::integer[], %(opened_machine)b::integer[], %(opened)b::integer[],
    %(clicked_human)b::integer[], %(clicked_machine)b::integer[], %(clicked)b::integer[], %(opens_human)b::integer[],
    %(opens_machine)b::integer[], %(clicks_human)b::integer[], %(clicks_machine)b::integer[],
    %(conversions_owed)b::integer[], %(conversions_told)b::integer[], %(conversions_refused)b::integer[],
    %(conversions_dead)b::integer[], %(time_to_deliver)b::text[], %(time_to_open)b::text[], %(time_to_click)b::text[]
) as row (
    tenant, by_event, slot, group_id, provider, partition, accepted, attempted, sent, deferred, delivered, dropped,
    failed, bounced_hard, bounced_soft, bounced_block, complained, unsubscribed, opened_human, opened_machine, opened,
    clicked_human, clicked_machine, clicked, opens_human, opens_machine, clicks_human, clicks_machine,
    conversions_owed, conversions_told, conversions_refused, conversions_dead, time_to_deliver, time_to_open,
    time_to_click)
on conflict (tenant, by_event, slot, group_id, provider, partition) do update set
    accepted = s.accepted + excluded.accepted,
    attempted = s.attempted + excluded.attempted,
    sent = s.sent + excluded.sent,
    deferred = s.deferred + excluded.deferred,
    delivered = s.delivered + excluded.delivered,
    dropped = s.dropped + excluded.dropped,
    failed = s.failed + excluded.failed,
    bounced_hard = s.bounced_hard + excluded.bounced_hard,
    bounced_soft = s.bounced_soft + excluded.bounced_soft,
    bounced_block = s.bounced_block + excluded.bounced_block,
    complained = s.complained + excluded.complained,
    unsubscribed = s.unsubscribed + excluded.unsubscribed,
    opened_human = s.opened_human + excluded.opened_human,
    opened_machine = s.opened_machine + excluded.opened_machine,
    opened = s.opened + excluded.opened,
    clicked_human = s.clicked_human + excluded.clicked_human,
    clicked_machine = s.clicked_machine + excluded.clicked_machine,
    clicked = s.clicked + excluded.clicked,
    opens_human = s.opens_human + excluded.opens_human,
    opens_machine = s.opens_machine + excluded.opens_machine,
    clicks_human = s.clicks_human + excluded.clicks_human,
    clicks_machine = s.clicks_machine + excluded.clicks_machine,
    conversions_owed = s.conversions_owed + excluded.conversions_owed,
    conversions_told = s.conversions_told + excluded.conversions_told,
    conversions_refused = s.conversions_refused + excluded.conversions_refused,
    conversions_dead = s.conversions_dead + excluded.conversions_dead,
    time_to_deliver = add_counts(s.time_to_deliver, excluded.time_to_deliver),
    time_to_open = add_counts(s.time_to_open, excluded.time_to_open),
    time_to_click = add_counts(s.time_to_click, excluded.time_to_click)

-- name: remove_empty_statistics
-- What was taken out may leave nothing: an email moves to its provider's row when its provider is known.
delete from statistics s using unnest(
    %(tenant)b::text[], %(by_event)b::boolean[], %(slot)b::integer[], %(group_id)b::bigint[], %(provider)b::text[],
    %(partition)b::integer[]
) as row (tenant, by_event, slot, group_id, provider, partition)
where s.tenant = row.tenant and s.by_event = row.by_event and s.slot = row.slot and s.group_id = row.group_id
    and s.provider = row.provider and s.partition = row.partition
    and 0 = all(array[
        s.accepted, s.attempted, s.sent, s.deferred, s.delivered, s.dropped, s.failed, s.bounced_hard, s.bounced_soft,
        s.bounced_block, s.complained, s.unsubscribed, s.opened_human, s.opened_machine, s.opened, s.clicked_human,
        s.clicked_machine, s.clicked, s.opens_human, s.opens_machine, s.clicks_human, s.clicks_machine,
        s.conversions_owed, s.conversions_told, s.conversions_refused, s.conversions_dead])

-- name: sums
-- Its parts are put in by `statistics_queries`: columns and conditions of the question.
select {columns}
from projections.statistics s join projections.statistics_groups g using (group_id)
where s.tenant = %(tenant)s and s.by_event = %(by_event)s and s.slot >= %(first)s and s.slot < %(end)s {filters}
group by {keys} limit %(limit)s

-- name: limit_time
select set_config('statement_timeout', %(timeout)s, true)

-- name: complete_from
select complete_from from projections.statistics_coverage
