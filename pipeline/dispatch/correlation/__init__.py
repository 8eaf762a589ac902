"""Which email an event is about that names none itself: what providers call our messages, and who waits for it."""
