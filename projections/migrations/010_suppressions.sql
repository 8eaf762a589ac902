-- Operators' decisions about addresses, made from their topic alone. They have a schema of their own, because a rebuild
-- of the projections reads another topic. To rebuild them, empty both tables and restart a projector.
create schema suppressions;

create table suppressions.decisions (
    tenant text not null,
    brand text not null,
    address_hash bytea not null,
    reason text,
    note text not null default '',
    decided_by text not null,
    at bigint not null,
    nth bigint not null,
    primary key (tenant, address_hash, brand)
);
comment on column suppressions.decisions.brand is '* is all of the tenant''s';
comment on column suppressions.decisions.reason is 'null: lifted';
comment on column suppressions.decisions.nth is 'the record''s offset: the later decision stands';

create table suppressions.next_offsets (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    primary key (topic, partition)
);
