"""Describe the HTTP APIs as OpenAPI; the application and the routes use it."""
