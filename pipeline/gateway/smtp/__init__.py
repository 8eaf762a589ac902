"""Where bounced and other inbound mail comes in, by SMTP, by HTTP, from a maildir: on the log, as it is."""
