"""Real Kafka and Postgres for one machine, from packages: no Java, no database and no container engine needed."""
