-- What the history API filters by. A request's part is a table of its own: a row is written once, when the request is
-- first known, and never updated, so its indexes cost nothing when a state changes. A state's part is in each version.
-- Rows from before this migration have null, until `mailfold rebuild --force` fills them.
set local search_path to projections;

create table requests (
    email_id uuid primary key,
    tenant text not null,
    accepted_at bigint not null,
    dialect text not null,
    brand_uuid uuid not null,
    message_id text not null,
    recipient text not null,
    recipient_domain text not null,
    template text,
    activity_id text,
    action_group_id text,
    action_id text,
    trigger_hash text,
    user_id text
);
comment on table requests is 'each email''s request as it was first known';
comment on column requests.accepted_at is 'never later than the first version that has the request';
comment on column requests.recipient is 'in one spelling: lower case, domain as A-labels';
create index requests_page on requests (tenant, accepted_at, email_id);
create index requests_brand on requests (tenant, brand_uuid, accepted_at, email_id);
create index requests_domain on requests (tenant, recipient_domain, accepted_at, email_id);
create index requests_recipient on requests (recipient);
create index requests_message on requests (message_id);
create index requests_template on requests (tenant, template, accepted_at, email_id) where template is not null;
create index requests_activity on requests (tenant, activity_id, accepted_at, email_id) where activity_id is not null;
create index requests_action_group on requests (tenant, action_group_id, accepted_at, email_id)
    where action_group_id is not null;
create index requests_action on requests (tenant, action_id, accepted_at, email_id) where action_id is not null;
create index requests_trigger on requests (tenant, trigger_hash, accepted_at, email_id) where trigger_hash is not null;
create index requests_user on requests (tenant, user_id, accepted_at, email_id) where user_id is not null;

alter table history
    add column facts integer,
    add column provider text,
    add column bounce_class text,
    add column bounce_code text,
    add column suppressed_reason text;
comment on column history.facts is 'a bit for each kind of fact that counts (projections/email_facets.py)';

alter table versions
    add column status text,
    add column facts integer,
    add column provider text,
    add column bounce_class text,
    add column bounce_code text,
    add column suppressed_reason text;

-- The timeline as of a moment: since when each fact, each of its places and its present reading are known.
alter table timeline
    add column known_from bigint,
    add column places_known_from bigint[],
    add column reading_known_from bigint;
comment on column timeline.known_from is 'the partition''s time when the fact was projected; null in older rows';
comment on column timeline.reading_known_from is 'the same for its present revision';

create table superseded_facts (
    email_id uuid not null,
    event_id text not null,
    revision bigint not null,
    known_from bigint,
    known_to bigint not null,
    fact bytea not null,
    primary key (email_id, event_id, revision)
);
comment on table superseded_facts is 'earlier readings of corrected events, in [known_from, known_to) of our clock';
