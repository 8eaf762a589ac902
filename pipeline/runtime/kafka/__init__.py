"""Everything that talks to Kafka: clients, the log, topics, and readers' progress."""
