"""What is asked: history, versions, timeline, suppressions, debts; folded from `email-changes`."""
