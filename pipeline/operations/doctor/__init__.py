"""`mailfold doctor`: checks of everything that an installation stands on, each with what to do."""
