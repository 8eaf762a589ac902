"""Parse and verify providers' webhooks and bounce mail; the gateway, the worker and the operator commands call it.

Nothing here does I/O.
"""
