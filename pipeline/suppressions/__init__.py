"""Operators' decisions in, records on the log out; addresses in, whether they get mail out."""
