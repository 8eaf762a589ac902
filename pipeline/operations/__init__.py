"""Operators' queries and repairs: status, traces, dead letters, rebuilds and checks; the CLI calls them."""
