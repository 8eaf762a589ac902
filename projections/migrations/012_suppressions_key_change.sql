-- Since when addresses are suppressed under keys made of A-labels (IDNA 2008). Before, the keys of domains with ß or a
-- final ς were those of other domains, with ss and σ: what is younger than this row under such a key tells of the other
-- address alone. A new database gets the moment of its creation and has nothing older.
create table suppressions.key_change (
    only_row boolean primary key default true check (only_row),
    changed_at bigint not null
);
insert into suppressions.key_change (changed_at) values ((extract(epoch from clock_timestamp()) * 1000)::bigint);
