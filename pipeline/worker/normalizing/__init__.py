"""Raw webhooks and inbound mail to events, without holding up the worker: small ones at once, others in processes."""
