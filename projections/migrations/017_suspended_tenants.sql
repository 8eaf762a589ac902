-- A suspended tenant keeps all that it has, and nothing is sent for it.
alter table admin.tenants
    add column suspended_at timestamptz,
    add column suspended_reason text not null default '';
comment on column admin.tenants.suspended_at is 'null: not suspended';
comment on column admin.tenants.suspended_reason is 'what its callers are told';

create index tenants_suspended on admin.tenants (tenant) where suspended_at is not null;
comment on index admin.tenants_suspended is 'read by each claim of jobs of the queue dispatch';
