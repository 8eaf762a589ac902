-- Providers whose webhooks we read and whose APIs we call; webhook keys rotate, so that two count at once.
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
