"""Run real Kafka and Postgres servers on one machine from Python packages, without Java, a database or containers."""
