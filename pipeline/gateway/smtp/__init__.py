"""Inbound mail, such as bounces: accepted by SMTP, by HTTP or from a maildir, and appended to the log as it is."""
