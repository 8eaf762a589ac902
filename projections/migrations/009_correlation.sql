-- The emails of events that contain no email id, made from provider-acks and uncorrelated-events alone. To rebuild them,
-- empty all three tables; the dispatcher that correlates starts again from the beginning by itself.
create schema correlation;

create table correlation.provider_ids (
    message_id text not null,
    provider text not null,
    email_id uuid,
    recorded_at bigint not null,
    primary key (message_id, provider)
);
comment on table correlation.provider_ids is 'what providers call the messages they took, in one spelling';
comment on column correlation.provider_ids.email_id is
    'null: the provider called messages to two of our emails so; its events then name neither';
create index provider_ids_age on correlation.provider_ids (recorded_at);

create table correlation.parked (
    partition integer not null,
    place bigint not null,
    message_id text not null,
    provider text not null,
    email_id uuid,
    parked_at bigint not null,
    event bytea not null,
    primary key (partition, place)
);
comment on table correlation.parked is 'events that wait for the ack that says whose they are';
comment on column correlation.parked.place is 'the offset on uncorrelated-events';
comment on column correlation.parked.email_id is 'known by now: to be appended to delivery-events, and then deleted';
comment on column correlation.parked.parked_at is 'when it was appended to uncorrelated-events';
create index parked_names on correlation.parked (message_id, provider);
create index parked_age on correlation.parked (parked_at);
create index parked_known on correlation.parked (partition, place) where email_id is not null;

create table correlation.next_offsets (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
);
comment on table correlation.next_offsets is 'first unread: written in the transaction that wrote what was read';
