"""What many tests need: servers, helpers that poll with a deadline, the skip rule."""
