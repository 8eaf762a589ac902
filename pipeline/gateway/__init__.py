"""Serve HTTP and SMTP: the role `mailfold gateway`."""
