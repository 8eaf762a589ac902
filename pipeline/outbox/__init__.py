"""Lease, schedule, breaker, order: the one engine under dispatch and emit."""
