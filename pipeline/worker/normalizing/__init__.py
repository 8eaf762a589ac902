"""Normalizes raw webhooks and inbound mail without blocking the worker: small ones inline, others in processes."""
