"""Suppressions: decisions about addresses, imports of lists, and queries whether an address may be written to.

The HTTP routes, `mailfold suppressions` and the dispatcher use it.
"""
