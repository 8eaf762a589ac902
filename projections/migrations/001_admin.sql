-- An operator's decisions. Only these data exist in Postgres alone; everything else can be rebuilt from the log.
create schema admin;

create table admin.tenants (
    tenant text primary key check (tenant ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    batch_max integer check (batch_max > 0),
    rate_per_second double precision check (rate_per_second > 0),
    created_at timestamptz not null default now()
);
comment on column admin.tenants.batch_max is 'null: MAILFOLD_BATCH_MAX';

create table admin.api_keys (
    key_hash bytea primary key,
    tenant text not null references admin.tenants,
    label text not null default '',
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
comment on column admin.api_keys.key_hash is 'SHA-256; the key itself has 256 random bits and is shown once';

create table admin.providers (
    provider text primary key check (provider ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    kind text not null default 'smtp' check (kind in ('smtp', 'sendgrid', 'sandbox')),
    host text not null,
    port integer not null,
    tls text not null default 'opportunistic' check (tls in ('opportunistic', 'required', 'implicit', 'off')),
    username text not null default '',
    password_sealed bytea,
    means_delivered boolean not null default false,
    max_connections integer not null default 8 check (max_connections > 0),
    webhook_key text not null default '',
    created_at timestamptz not null default now()
);
comment on column admin.providers.kind is 'whose headers we add and whose webhooks we read; mail goes by SMTP for all of them';
comment on column admin.providers.means_delivered is 'this provider''s 250 is the final delivery';
comment on column admin.providers.webhook_key is 'the public key that verifies this provider''s webhooks';

create table admin.brands (
    tenant text not null references admin.tenants,
    brand text not null,
    provider text not null references admin.providers,
    unknown_policy text not null default 'resend' check (unknown_policy in ('resend', 'hold')),
    primary key (tenant, brand)
);
comment on table admin.brands is 'brand ''*'' serves every brand of the tenant that has no row of its own';

create table admin.destinations (
    tenant text not null references admin.tenants,
    brand text not null,
    url text not null,
    key_sealed bytea not null,
    created_at timestamptz not null default now(),
    primary key (tenant, brand)
);
comment on table admin.destinations is 'where conversions go; brand ''*'' serves every brand without a row of its own';

create schema intake;

create table intake.identities (
    email_id uuid primary key,
    fingerprint bytea not null,
    recorded_at bigint not null
);
comment on table intake.identities is
    'Which recipient and brand an identity was accepted with: the same identity with another one is refused. '
    'Reserved before the append, so that of two at once only one is right.';
