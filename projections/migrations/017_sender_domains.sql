-- The domains from which tenants may send, and whether a tenant may send from others, too. Tenants that are here already
-- keep what they had: nothing that is accepted today is refused after an upgrade.
alter table admin.tenants add column verified_senders boolean not null default false;
comment on column admin.tenants.verified_senders is 'its mail is accepted from verified domains only';

create table admin.sender_domains (
    tenant text not null references admin.tenants,
    domain text not null check (domain ~ '^[a-z0-9_.-]{3,253}$'),
    brand text not null,
    token text not null,
    created_at timestamptz not null default now(),
    verified_at timestamptz,
    primary key (tenant, domain, brand)
);
comment on column admin.sender_domains.domain is 'A-labels, in lower case, without a dot at the end';
comment on column admin.sender_domains.brand is '* is all of the tenant''s';
comment on column admin.sender_domains.token is 'what its TXT record must contain; the same for all brands';
comment on column admin.sender_domains.verified_at is 'null: the record was never seen';
