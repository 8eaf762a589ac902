"""The records on the log: frozen types, their codec, ids, joins and the registry of topics. Pure."""
