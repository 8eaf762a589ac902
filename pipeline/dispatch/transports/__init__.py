"""A mail in, what its provider answered out: SMTP and the HTTP APIs behind one port."""
