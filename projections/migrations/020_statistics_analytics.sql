-- What tools for analysis may read (docs/how-to/bi-tools.md): views of version 1. A view's columns keep their names and
-- meanings; new ones are added at the end. `mailfold rebuild` points the views to the tables that it swaps in.
create schema analytics;
comment on schema analytics is 'views of version 1 for tools; a role reads the tenants that mailfold analytics grant gave it';

create table admin.analytics_readers (
    role name not null,
    tenant text not null,
    primary key (role, tenant)
);
comment on column admin.analytics_readers.tenant is '* is all';

create view analytics.emails with (security_barrier) as
select h.email_id, h.tenant, h.brand, h.dialect, h.message_id, h.identity, h.status, h.provider,
    r.template, r.recipient_domain, r.activity_id, r.action_group_id, r.action_id, r.trigger_hash,
    h.bounce_class, h.bounce_code, h.suppressed_reason,
    to_timestamp(r.accepted_at / 1000.0) as accepted_at,
    to_timestamp(h.sent_at / 1000.0) as sent_at,
    to_timestamp(h.updated_at / 1000.0) as updated_at,
    (h.facts & 32) <> 0 as is_delivered,
    (h.facts & 1024) <> 0 as is_bounced,
    (h.facts & 2048) <> 0 as is_complained,
    (h.facts & 4096) <> 0 as is_dropped,
    (h.facts & 8192) <> 0 as is_failed,
    (h.facts & 16384) <> 0 as is_unsubscribed,
    (h.facts & 64) <> 0 as is_opened_by_human,
    (h.facts & 128) <> 0 as is_opened_by_machine,
    (h.facts & 256) <> 0 as is_clicked_by_human,
    (h.facts & 512) <> 0 as is_clicked_by_machine
from projections.history h
left join projections.requests r using (email_id)
where exists (
    select from admin.analytics_readers a where a.role = current_user and a.tenant in (h.tenant, '*'));
comment on view analytics.emails is 'version 1: a row per email as it is now; no address, only its domain';
comment on column analytics.emails.email_id is 'one message to one recipient';
comment on column analytics.emails.identity is 'the caller''s own id, such as Fast Track''s activity.id';
comment on column analytics.emails.status is 'by precedence: complained, bounced, failed, dropped, clicked, opened, delivered, …';
comment on column analytics.emails.provider is 'that took the email, or refused it; null before either';
comment on column analytics.emails.sent_at is 'when a provider took it, or it was dropped or failed; the provider''s clock';
comment on column analytics.emails.updated_at is 'when it last changed; our clock';
comment on column analytics.emails.is_delivered is 'reported as delivered, whatever came later';
comment on column analytics.emails.bounce_code is 'the enhanced status code, such as 5.1.1; without one the reply code';

create view analytics.events with (security_barrier) as
select t.email_id, h.tenant, h.brand, t.event_id, t.kind,
    to_timestamp(t.occurred_at / 1000.0) as occurred_at,
    to_timestamp(t.recorded_at / 1000.0) as recorded_at,
    cardinality(t.places) as places,
    t.revision
from projections.timeline t
join projections.history h using (email_id)
where exists (
    select from admin.analytics_readers a where a.role = current_user and a.tenant in (h.tenant, '*'));
comment on view analytics.events is 'version 1: a row per fact about an email, in its latest reading';
comment on column analytics.events.occurred_at is 'the provider''s clock, which may be wrong';
comment on column analytics.events.recorded_at is 'our clock';
comment on column analytics.events.places is 'how often the fact is on the log, at most 100: more than 1 is a repeat';
comment on column analytics.events.revision is 'above 0: a corrected mapping read the fact again';

create view analytics.daily_statistics with (security_barrier) as
select g.tenant, case when s.by_event then 'event' else 'cohort' end as view,
    (date '1970-01-01' + s.slot / 96) as day,
    g.brand, g.dialect, s.provider, g.template, g.recipient_domain, g.activity_id, g.action_group_id,
    sum(s.accepted) as accepted, sum(s.attempted) as attempted, sum(s.sent) as sent, sum(s.deferred) as deferred,
    sum(s.delivered) as delivered, sum(s.dropped) as dropped, sum(s.failed) as failed,
    sum(s.bounced_hard + s.bounced_soft) as bounced, sum(s.bounced_hard) as bounced_hard,
    sum(s.bounced_soft) as bounced_soft, sum(s.bounced_block) as bounced_block,
    sum(s.complained) as complained, sum(s.unsubscribed) as unsubscribed,
    sum(s.opened_human) as opened_human, sum(s.opened_machine) as opened_machine, sum(s.opened) as opened,
    sum(s.clicked_human) as clicked_human, sum(s.clicked_machine) as clicked_machine, sum(s.clicked) as clicked,
    sum(s.opens_human) as opens_human, sum(s.opens_machine) as opens_machine,
    sum(s.clicks_human) as clicks_human, sum(s.clicks_machine) as clicks_machine,
    sum(s.conversions_owed) as conversions_owed, sum(s.conversions_told) as conversions_told,
    sum(s.conversions_refused) as conversions_refused, sum(s.conversions_dead) as conversions_dead
from projections.statistics s
join projections.statistics_groups g using (group_id)
where exists (
    select from admin.analytics_readers a where a.role = current_user and a.tenant in (g.tenant, '*'))
group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10;
comment on view analytics.daily_statistics is
    'version 1: the rollups by UTC day; docs/reference/metrics-definitions.md defines every column';
comment on column analytics.daily_statistics.view is
    'cohort: the day on which the emails were accepted. event: the day on which it happened. Never add the two up';
comment on column analytics.daily_statistics.day is 'UTC';
