-- Extra Horizon's Mail: one message with all its recipients, as its API lists it.
set local search_path to projections;

create table mails (
    mail_id text primary key,
    tenant text not null,
    created_at bigint,
    views bigint not null,
    updated_at bigint not null,
    mail jsonb
);
comment on table mails is 'one row per message_id; recipients of one mail may lie in several partitions';
comment on column mails.mail is 'the whole object; null until the first recipient''s request, which tells it, is projected';
comment on column mails.views is 'distinct events of /open, of all its recipients';
create index mails_page on mails (tenant, created_at, mail_id) where mail is not null;
create index mails_asked on mails using gin (mail jsonb_path_ops);

-- Emails of Mails that are on their way or were given up: few at any time.
create index history_queued on history (tenant, message_id)
    where dialect = 'extrahorizon' and status in ('accepted', 'deferred', 'failed');
