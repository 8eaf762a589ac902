"""What lies on the log: frozen records, their codec, and the registry of topics. Pure."""
