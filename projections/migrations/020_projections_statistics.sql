-- Rollups of the emails, which the projector writes in its own transaction (projections/statistics.py). What is counted
-- of an email is its state of `counted_version`: a version before this one changes a row without counting it, and the
-- next change, or a backfill, makes up for that.
set local search_path to projections;

alter table history
    add column statistics_group bigint,
    add column counted_version integer not null default 0;
comment on column history.statistics_group is 'statistics_groups.group_id; null while nothing is counted';
comment on column history.counted_version is 'whose state the statistics count: 0 for none, mostly version';

create table statistics_groups (
    group_id bigint primary key,
    tenant text not null,
    brand text not null,
    dialect text not null,
    template text not null,
    recipient_domain text not null,
    activity_id text not null,
    action_group_id text not null
);
comment on table statistics_groups is 'what the emails of a group have in common; empty: they have none, other: folded';

create table statistics_campaigns (
    tenant text not null,
    month integer not null,
    partition integer not null,
    brand text not null,
    template text not null,
    activity_id text not null,
    action_group_id text not null,
    primary key (partition, tenant, month, brand, template, activity_id, action_group_id)
);
comment on table statistics_campaigns is
    'campaigns that are counted apart: the first of a partition and month (years × 12 + months), in the order of the log';

create table statistics (
    tenant text not null,
    by_event boolean not null,
    slot integer not null,
    group_id bigint not null,
    provider text not null,
    partition integer not null,
    accepted integer not null,
    attempted integer not null,
    sent integer not null,
    deferred integer not null,
    delivered integer not null,
    dropped integer not null,
    failed integer not null,
    bounced_hard integer not null,
    bounced_soft integer not null,
    bounced_block integer not null,
    complained integer not null,
    unsubscribed integer not null,
    opened_human integer not null,
    opened_machine integer not null,
    opened integer not null,
    clicked_human integer not null,
    clicked_machine integer not null,
    clicked integer not null,
    opens_human integer not null,
    opens_machine integer not null,
    clicks_human integer not null,
    clicks_machine integer not null,
    conversions_owed integer not null,
    conversions_told integer not null,
    conversions_refused integer not null,
    conversions_dead integer not null,
    time_to_deliver integer[],
    time_to_open integer[],
    time_to_click integer[],
    -- By the partition, because no two projectors may wait for each other's rows; by the rest as questions are asked.
    primary key (tenant, by_event, slot, group_id, provider, partition)
) with (fillfactor = 70);
comment on column statistics.by_event is 'false: all of the emails accepted in the slot; true: what happened in the slot';
comment on column statistics.slot is 'quarter hours since the Unix epoch';
comment on column statistics.time_to_deliver is
    'emails by the time it took; the buckets are those of projections/metric_definitions.py; null for none';

create function add_counts(integer[], integer[]) returns integer[] language sql immutable parallel safe as $$
    -- Null instead of nothing but zeros, so that a row has one form only.
    select case when $1 is null then $2 when $2 is null then $1 else nullif(
        array(select a + b from unnest($1, $2) with ordinality as each (a, b, nth) order by nth),
        array_fill(0, array[cardinality($1)])
    ) end
$$;

create table statistics_coverage (
    one boolean primary key default true check (one),
    complete_from bigint not null
);
comment on table statistics_coverage is
    'no row: everything is counted; else from when on, in milliseconds. The tables of a rebuild have no row';
insert into statistics_coverage (complete_from)
select (extract(epoch from now()) * 1000)::bigint where exists (select from history);
