"""Everything that connects to Postgres: URLs, pools, the schema, one leader, and retention."""
