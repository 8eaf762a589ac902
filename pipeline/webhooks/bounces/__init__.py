"""Parse bounces, complaints, auto-replies and unsubscribe mail; the adapter `bounce_mail` calls it.

Nothing here does I/O, and no input makes it raise.
"""
