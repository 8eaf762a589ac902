#!/bin/sh
# Makes Mailfold's own role and database, once, while the data folder is empty. The role is no superuser and owns nothing
# but its database. For a folder with data run it by hand (docs/how-to/docker-compose.md).
set -eu
psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --no-psqlrc --set ON_ERROR_STOP=1 <<'SQL'
\getenv password MAILFOLD_DATABASE_PASSWORD
create role mailfold login password :'password' nosuperuser nocreatedb nocreaterole noreplication nobypassrls;
create database mailfold owner mailfold;
revoke connect on database mailfold from public;
SQL
