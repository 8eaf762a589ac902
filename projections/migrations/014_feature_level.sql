-- What the processes may write: raised by `mailfold upgrade finish` when every process can read it.
create table admin.feature_level (
    one boolean primary key default true check (one),
    level integer not null,
    finished_at timestamptz not null default now()
);
comment on table admin.feature_level is 'no row: level 1, what every version reads';
