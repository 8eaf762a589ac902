"""Sessions of the console: an API key that a browser was signed in with. Only hashes are stored.

The gateway's console calls it. A session does not outlive its key, because the caller looks the key up as well.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Final

from pipeline.admin.sql import execute, fetch_rows
from pipeline.runtime.postgres.database import Pool

SESSION_IDLE_TIME: Final = timedelta(hours=1)
"""Time without a request after which a session ends."""
SESSION_LIFETIME: Final = timedelta(hours=12)
"""Time after which a session ends in any case."""

MAX_SESSIONS_PER_KEY: Final = 50
"""Sessions of one key; with a further one its oldest ends."""


async def add_console_session(pool: Pool, session_hash: bytes, key_hash: bytes) -> None:
    """Store a new session of the key with this hash (:func:`pipeline.admin.key_hash`)."""
    await execute(
        pool,
        "add_console_session",
        session_hash=session_hash,
        key_hash=key_hash,
        idle=SESSION_IDLE_TIME,
        lifetime=SESSION_LIFETIME,
        older=MAX_SESSIONS_PER_KEY - 1,
    )


async def find_console_sessions(pool: Pool, session_hashes: Collection[bytes]) -> dict[bytes, bytes]:
    """Return the hash of each session's key, and note that they are in use; without those unknown or ended."""
    rows = await fetch_rows(pool, "find_console_sessions", list(session_hashes), SESSION_IDLE_TIME)
    if due := [session_hash for session_hash, _, is_note_due in rows if is_note_due]:
        await execute(pool, "note_console_session_use", due)
    return {bytes(session_hash): bytes(key_hash) for session_hash, key_hash, _ in rows}


async def end_console_session(pool: Pool, session_hash: bytes) -> None:
    """End one session; one that has ended is left as it is."""
    await execute(pool, "end_console_session", session_hash)


async def end_console_sessions_of_key(pool: Pool, key_hash: bytes) -> int:
    """End all sessions of a key and return their number."""
    return await execute(pool, "end_console_sessions_of_key", key_hash)
