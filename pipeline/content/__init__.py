"""Templates, personalization, MIME, tracking links: what is said in a message. Pure."""
