-- What an API key may do, where and until when, and who made it. Keys that stood here before keep all that they had.
alter table admin.api_keys
    add column scopes text[],
    add column brand text not null default '',
    add column networks cidr[] not null default '{}',
    add column expires_at timestamptz,
    add column rotated_at timestamptz,
    add column last_used_on date,
    add column made_by text not null default '';
comment on column admin.api_keys.key_hash is
    'SHA-256; the key itself has 256 random bits and is shown once. Of a key with limits the SHA-256 is hashed again '
    '(pipeline/admin/api_keys.py), so that processes which do not know the limits refuse the key';
comment on column admin.api_keys.scopes is 'null: unscoped, it may do everything of its tenant';
comment on column admin.api_keys.brand is 'the only brand that it may be used for; empty: all';
comment on column admin.api_keys.networks is 'from where it may be used; empty: from everywhere';
comment on column admin.api_keys.rotated_at is 'when another key took its place; it then ends at expires_at';
comment on column admin.api_keys.last_used_on is 'UTC; written by the first request of a day';
comment on column admin.api_keys.made_by is 'the user and host that made it; empty: not known';
