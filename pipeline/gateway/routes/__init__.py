"""Serve the HTTP APIs, one module each."""
