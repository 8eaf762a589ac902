"""Normalize stored webhooks again after a mapping was corrected, and append the corrections."""
