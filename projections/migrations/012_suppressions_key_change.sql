-- The time since which suppression keys are made of A-labels (IDNA 2008). Before, domains with ß or a final ς had the
-- keys of other domains, with ss and σ. A row under such a key that is newer than this time concerns only the other
-- address. In a new database it is the time of its creation, and nothing is older.
create table suppressions.key_change (
    only_row boolean primary key default true check (only_row),
    changed_at bigint not null
);
insert into suppressions.key_change (changed_at) values ((extract(epoch from clock_timestamp()) * 1000)::bigint);
