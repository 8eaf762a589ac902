"""The subcommands of `mailfold`, one file per group; `main.py` puts them together."""
