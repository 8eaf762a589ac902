"""Save what Postgres alone knows in one encrypted file, and restore it; `mailfold backup` and `restore` call it."""
