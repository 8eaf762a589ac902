-- Exports: what was asked for, how far it is, and the file in pieces that any gateway can serve.
create schema exports;

create table exports.jobs (
    export_id uuid primary key,
    tenant text not null,
    request bytea not null,
    as_of bigint not null,
    state text not null default 'pending' check (state in ('pending', 'running', 'done', 'failed', 'expired')),
    lease_token uuid,
    lease_until timestamptz,
    position bytea,
    emails bigint not null default 0,
    rows bigint not null default 0,
    bytes bigint not null default 0,
    chunks integer not null default 0,
    checksum text not null default '',
    error text not null default '',
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    expires_at timestamptz
);
comment on column exports.jobs.request is 'JSON; emptied when it expires, because a filter may have an address';
comment on column exports.jobs.position is 'the last email of the last chunk, from which another gateway goes on';
comment on column exports.jobs.checksum is 'SHA-256 of the whole file';
create index jobs_open on exports.jobs (created_at) where state in ('pending', 'running');
create index jobs_tenant on exports.jobs (tenant, created_at);
create index jobs_finished on exports.jobs (finished_at) where finished_at is not null;

create table exports.chunks (
    export_id uuid not null references exports.jobs on delete cascade,
    nth integer not null,
    first_byte bigint not null,
    data bytea not null,
    primary key (export_id, nth)
);
comment on table exports.chunks is 'each is a whole member of the gzip file';
alter table exports.chunks alter column data set storage external;
