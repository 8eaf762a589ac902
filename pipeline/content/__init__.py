"""The content of messages: templates, personalization, MIME, tracking links and DKIM. Pure."""
