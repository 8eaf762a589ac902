"""An email provider for development: it accepts mail by SMTP, answers by address, and posts signed webhooks."""
