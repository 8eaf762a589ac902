-- Evidence about addresses: a row per email and reason instead of only the earliest, so that an operator's lift can lie
-- between two of them, soft bounces can be counted, and a row is removed when its email takes the evidence back.
set local search_path to projections;

create table evidence (
    tenant text not null,
    brand text not null,
    address_hash bytea not null,
    email_id uuid not null,
    reason text not null,
    event_id text not null,
    at bigint not null,
    primary key (tenant, address_hash, brand, email_id, reason)
);
comment on table evidence is 'made of states alone; whether it suppresses is read from it and from suppressions.decisions';
comment on column evidence.address_hash is 'keyed hash of the normalized address';
comment on column evidence.event_id is 'empty for an unsubscribe: the timeline has it';
comment on column evidence.at is 'our clock';

-- The earliest row of each address is kept; `mailfold rebuild --force` adds the others.
insert into evidence (tenant, brand, address_hash, email_id, reason, event_id, at)
select tenant, brand, address_hash, email_id, reason, event_id, since from suppressions;
drop table suppressions;
