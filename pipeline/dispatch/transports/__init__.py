"""Hand emails to providers over SMTP or their HTTP APIs, behind one interface (`base.Transport`)."""
