"""Sessions of the console: an API key that a browser was signed in with. Only hashes are stored.

The gateway's console calls it. A session does not outlive its key, because the caller looks the key up as well.
"""

from datetime import timedelta
from typing import Final

from pipeline.admin.sql import execute, fetch_row
from pipeline.runtime.database import Pool

SESSION_IDLE_TIME: Final = timedelta(hours=1)
"""Time without a request after which a session ends."""
SESSION_LIFETIME: Final = timedelta(hours=12)
"""Time after which a session ends in any case."""


async def add_console_session(pool: Pool, session_hash: bytes, key_hash: bytes) -> None:
    """Store a new session of the key with this hash (:func:`pipeline.admin.key_hash`)."""
    await execute(
        pool,
        "add_console_session",
        session_hash=session_hash,
        key_hash=key_hash,
        idle=SESSION_IDLE_TIME,
        lifetime=SESSION_LIFETIME,
    )


async def find_console_session(pool: Pool, session_hash: bytes) -> bytes | None:
    """Return the hash of a session's key, and note that the session is in use; None if it is unknown or has ended."""
    row = await fetch_row(pool, "find_console_session", session_hash, SESSION_IDLE_TIME)
    if row is None:
        return None
    key_hash, is_note_due = row
    if is_note_due:
        await execute(pool, "note_console_session_use", session_hash)
    return bytes(key_hash)


async def end_console_session(pool: Pool, session_hash: bytes) -> None:
    """End one session; one that has ended is left as it is."""
    await execute(pool, "end_console_session", session_hash)


async def end_console_sessions_of_key(pool: Pool, key_hash: bytes) -> int:
    """End all sessions of a key and return their number."""
    return await execute(pool, "end_console_sessions_of_key", key_hash)
