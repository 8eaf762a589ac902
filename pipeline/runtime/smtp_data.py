"""Read the message that follows SMTP's DATA command; the gateway's listener and the sandbox's sessions call it.

aiosmtpd reads line by line, which takes 100 ms for a message of 500 kB. This reads up to the next dot at a line's end.
"""

import asyncio
from typing import Final

_LINE_END: Final = b"\r\n"
_MAYBE_LAST: Final = b".\r\n"
_MESSAGE_END: Final = b"\r\n.\r\n"


class EndlessMessage(Exception):
    """The client sends far more than the limit that was announced to it."""


async def read_message(reader: asyncio.StreamReader, *, max_kept_bytes: int, max_bytes: int) -> tuple[bytes, int]:
    """Read up to the dot on a line of its own (RFC 5321 §4.5.2).

    Return the message's first ``max_kept_bytes`` and the size of the whole, both without the dots that the client added
    to lines. Only CRLF ends a line, which prevents SMTP smuggling; lines may be of any length. Raise EndlessMessage
    after ``max_bytes``.
    """
    kept, size, before = bytearray(), 0, _LINE_END
    while True:
        piece = await _read_piece(reader)
        text = before + piece
        is_last = text.endswith(_MESSAGE_END)
        content = (text[: -len(_MAYBE_LAST)] if is_last else text).replace(b"\r\n.", _LINE_END)[len(_LINE_END) :]
        size += len(content)
        kept += content[: max(0, max_kept_bytes - len(kept))]
        if is_last:
            return bytes(kept), size
        if size > max_bytes:
            raise EndlessMessage
        before = text[-len(_LINE_END) :]


async def _read_piece(reader: asyncio.StreamReader) -> bytes:
    """Return what comes up to the next dot at a line's end, or a part of it if it is longer than the reader's limit."""
    try:
        return await reader.readuntil(_MAYBE_LAST)
    except asyncio.LimitOverrunError as overrun:
        return await reader.read(overrun.consumed)
