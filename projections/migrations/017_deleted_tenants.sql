-- Names of tenants that were deleted. The log still has their records, so the projections leave out what is theirs, and
-- nobody may get such a name again: they would get the history with it.
create table admin.deleted_tenants (
    tenant text primary key,
    deleted_at timestamptz not null default now(),
    finished_at timestamptz
);
comment on column admin.deleted_tenants.finished_at is 'null: not all rows are removed yet; `mailfold tenants delete` goes on';
