"""Hand emails to providers: the role `mailfold dispatch`."""
