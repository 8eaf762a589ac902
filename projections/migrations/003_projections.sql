-- The tables that queries read. They are made from email-changes alone and have a schema of their own, which a rebuild
-- replaces as a whole. Names after the first statement have no schema, so search_path decides where they are created.
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
    partition integer not null,
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
    valid_from bigint not null,
    provider_ids text[] not null default '{}',
    state bytea not null
);
comment on table history is 'each email as it is since valid_from; as it was before: versions';
comment on column history.partition is 'of email-changes: whose first read releases the email''s held debts';
comment on column history.tenant is 'null while facts came before their request';
comment on column history.state is 'the whole folded state, as on email-states';
create index history_recipient on history (recipient);
create index history_identity on history (identity) where identity <> '';
create index history_provider_ids on history using gin (provider_ids);
create index history_page on history (tenant, sent_at, email_id) where listed is not null;
create index history_state_page on history (tenant, listed, sent_at, email_id) where listed is not null;
create index history_brand_page on history (tenant, brand_uuid, sent_at, email_id) where listed is not null;

create table versions (
    email_id uuid not null,
    version integer not null,
    tenant text,
    brand_uuid uuid,
    recipient text not null default '',
    listed text,
    sent_at bigint,
    valid_from bigint not null,
    valid_to bigint not null,
    state bytea not null,
    primary key (email_id, version)
);
comment on table versions is
    'each email as it was in [valid_from, valid_to), our clock; the version in force is in history alone, so that '
    'a change is one row updated and one inserted, and a page as of now reads hardly any version';
-- Find the versions that were valid at a time: as many as emails were on their way then, however long ago it was.
create index versions_in_force on versions using gist (int8range(valid_from, valid_to)) where listed is not null;
create index versions_recipient on versions (recipient) where listed is not null;

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
comment on column timeline.places is 'where the fact lies on the log, the first 100; more than one is a duplicate';

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
