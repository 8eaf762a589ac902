"""The subcommands of `mailfold`, a file per group."""
