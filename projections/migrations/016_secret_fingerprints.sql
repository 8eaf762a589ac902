-- Which secrets this database was written with, so that a process with a foreign one stops instead of losing
-- suppressions. A fingerprint does not help to guess its secret.
create table admin.secret_fingerprints (
    purpose text not null check (purpose in ('signing', 'addresses')),
    fingerprint text not null,
    first_used_at timestamptz not null default now(),
    primary key (purpose, fingerprint)
);
