"""The demo: emails through a complete stack, and a check that Fast Track received every conversion it should."""
