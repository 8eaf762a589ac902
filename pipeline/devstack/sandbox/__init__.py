"""An email provider for development: takes mail by SMTP, answers by address, posts signed webhooks."""
