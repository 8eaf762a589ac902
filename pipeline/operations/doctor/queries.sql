-- name: server
select current_setting('server_version_num')::integer, pg_is_in_recovery(),
    extract(epoch from clock_timestamp())::float8, current_setting('default_transaction_read_only') = 'on'
