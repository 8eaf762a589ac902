"""The read side: history, versions, timeline, suppressions and conversions to send, projected from `email-changes`."""
