"""Bring the log and Postgres together again after one of them lost something; `mailfold recover` calls it."""
