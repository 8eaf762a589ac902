"""The job queue in Postgres under dispatch and emit: leases, retries, order, circuit breakers and dead letters."""
