"""Jobs in, verdicts out: lease, schedule, order, breaker and dead letters under dispatch and emit."""
