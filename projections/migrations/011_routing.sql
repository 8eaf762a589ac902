-- A brand's sender, DKIM key and routes to providers.
alter table admin.brands
    add column unsubscribe boolean not null default true,
    add column trap_link boolean not null default false,
    add column sender_address text not null default '',
    add column sender_name text not null default '',
    add column dkim_domain text not null default '',
    add column dkim_selector text not null default '',
    add column dkim_key_sealed bytea;
comment on column admin.brands.unsubscribe is 'its messages carry List-Unsubscribe and List-Unsubscribe-Post';
comment on column admin.brands.trap_link is 'its messages carry a link that no human sees';
comment on column admin.brands.sender_address is 'whom its messages are from where a request names nobody; empty: no-reply@MAILFOLD_MAIL_DOMAIN';
comment on column admin.brands.dkim_key_sealed is 'the private key, sealed with MAILFOLD_SECRET; null: not signed';

create table admin.routes (
    tenant text not null,
    brand text not null,
    provider text not null references admin.providers,
    weight double precision not null check (weight > 0 and weight < 'infinity'),
    primary key (tenant, brand, provider),
    foreign key (tenant, brand) references admin.brands on delete cascade
);
comment on table admin.routes is 'whom a brand sends through; none: its one provider';

alter table jobs.jobs add column route text not null default '';
comment on column jobs.jobs.route is
    'who may have got it already: written before the contact, where there is a choice; every later attempt goes there';

alter table admin.providers add column options jsonb not null default '{}';
comment on column admin.providers.options is 'what only its kind knows: a configuration set, a message stream';
