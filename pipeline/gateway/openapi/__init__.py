"""Describe the HTTP APIs as OpenAPI."""
