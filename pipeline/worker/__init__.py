"""Fold facts into states: the role `mailfold worker`."""
