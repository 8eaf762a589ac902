"""The role `mailfold project`: writes `email-changes`, templates and suppressions into Postgres."""
