-- Templates, made from their topic alone. They have a schema of their own, because a rebuild of the projections reads
-- another topic. To rebuild them, empty both tables and restart a projector.
create schema templates;

create table templates.versions (
    template_id uuid not null,
    version integer not null,
    tenant text not null,
    name text not null,
    hash text not null,
    recorded_at bigint not null,
    template bytea not null,
    primary key (template_id, version)
);
comment on column templates.versions.template is 'the record, as on the topic';
create index versions_name on templates.versions (tenant, name, version);
create index versions_hash on templates.versions (tenant, hash);

create table templates.next_offsets (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
);

create table intake.template_versions (
    template_id uuid not null,
    version integer not null,
    hash text not null,
    primary key (template_id, version)
);
comment on table intake.template_versions is
    'Which number a content got. Reserved before the append, so that of two pushes at once each has its own, '
    'and a push that is repeated finds its own again.';
