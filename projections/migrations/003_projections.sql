-- What is asked. Made from email-changes alone, so it lies in a schema that a rebuild can replace whole:
-- this file's names are unqualified after the first statement and land in the schema that search_path names.
create schema projections;
set local search_path to projections;

create table next_offsets (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    rebuilding_to bigint,
    primary key (topic, partition)
);
comment on column next_offsets.rebuilding_to is 'set while this partition is read for the first time: debts are held until then';

create table history (
    email_id uuid primary key,
    tenant text,
    dialect text not null default '',
    brand text not null default '',
    brand_uuid uuid,
    identity text not null default '',
    message_id text not null default '',
    recipient text not null default '',
    kind text not null default '',
    status text not null,
    listed text,
    sent_at bigint,
    updated_at bigint not null,
    version integer not null,
    provider_ids text[] not null default '{}',
    state bytea not null
);
comment on column history.tenant is 'null while facts came before their request';
comment on column history.state is 'the whole folded state, as on email-states';
create index history_recipient on history (recipient);
create index history_identity on history (identity) where identity <> '';
create index history_provider_ids on history using gin (provider_ids);
create index history_page on history (tenant, sent_at desc, email_id);

create table versions (
    email_id uuid not null,
    version integer not null,
    tenant text,
    brand_uuid uuid,
    recipient text not null default '',
    listed text,
    sent_at bigint,
    valid_from bigint not null,
    valid_to bigint not null default 9223372036854775807,
    state bytea not null,
    primary key (email_id, version)
);
comment on table versions is 'each email as it was in [valid_from, valid_to), our clock: pages are a point in time';
create index versions_page on versions (tenant, sent_at desc, email_id, valid_from);
create index versions_recipient on versions (tenant, recipient, sent_at desc, email_id);

create table timeline (
    email_id uuid not null,
    event_id text not null,
    kind text not null,
    occurred_at bigint not null,
    recorded_at bigint not null,
    places text[] not null,
    fact bytea not null,
    primary key (email_id, event_id)
);
comment on column timeline.places is 'where the fact lies on the log; more than one is a duplicate';

create table suppressions (
    tenant text not null,
    brand text not null,
    address_hash bytea not null,
    reason text not null,
    since bigint not null,
    email_id uuid not null,
    event_id text not null,
    primary key (tenant, brand, address_hash)
);
comment on column suppressions.address_hash is 'keyed hash of the normalized address';
