-- Who is signed in to the console. A session is an API key in a browser: it ends with its key, and is not saved by backups.
create table admin.console_sessions (
    session_hash bytea primary key,
    key_hash bytea not null,
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    expires_at timestamptz not null
);
comment on column admin.console_sessions.session_hash is
    'SHA-256 of the cookie, which has 256 random bits and is stored nowhere';
comment on column admin.console_sessions.key_hash is
    'SHA-256 of the API key, by which it is looked up at every request';
comment on column admin.console_sessions.last_seen_at is 'written at most once a minute';
create index console_sessions_key on admin.console_sessions (key_hash);
