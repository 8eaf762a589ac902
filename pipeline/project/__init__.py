"""Write changes into Postgres: the role `mailfold project`."""
