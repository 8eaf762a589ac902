-- Providers whose webhooks we read and whose APIs we call. Webhook keys are rotated, so two may be valid at once.
alter table admin.providers
    add column webhook_keys text[] not null default '{}',
    add column via text not null default 'smtp' check (via in ('smtp', 'api')),
    add column region text not null default '',
    add column api_url text not null default '';

update admin.providers set webhook_keys = array[webhook_key] where webhook_key <> '';

alter table admin.providers
    drop column webhook_key,
    drop constraint providers_kind_check,
    add constraint providers_kind_check check (kind in (
        'smtp', 'sandbox', 'sendgrid', 'mailgun', 'ses', 'postmark', 'sparkpost', 'mailjet', 'brevo', 'resend',
        'mandrill', 'mailersend', 'mailtrap', 'postal')),
    add constraint providers_webhook_keys_check check (cardinality(webhook_keys) <= 8),
    add constraint providers_host_check check (via = 'api' or host <> '');

comment on column admin.providers.kind is 'whose API we call, whose headers we add and whose webhooks we read';
comment on column admin.providers.webhook_keys is
    'what verifies this provider''s webhooks, oldest first; sealed, but for public keys that stood here before';
comment on column admin.providers.via is 'how mail goes there';
comment on column admin.providers.api_url is 'empty: the provider''s own';

create table intake.webhook_tokens (
    provider text not null,
    token bytea not null,
    digest bytea not null,
    expires_at bigint not null,
    primary key (provider, token)
);
create index on intake.webhook_tokens (expires_at);
comment on table intake.webhook_tokens is
    'What a signed token was first used for, where the signature does not cover the body: the same token with '
    'another body is forged. Kept for as long as its signature is fresh.';

create table intake.webhooks_heard (
    provider text not null,
    outcome text not null check (outcome in ('taken', 'refused')),
    at timestamptz not null,
    why text not null default '',
    primary key (provider, outcome)
);
comment on table intake.webhooks_heard is
    'The last webhook of each provider that was taken and that was refused, to within seconds; for people';
