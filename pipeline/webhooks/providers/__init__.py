"""Adapters of the providers' webhooks, one module each, without I/O: mapping tables and the functions of `Adapter`."""
