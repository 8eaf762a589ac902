"""Import of inbound mail from a maildir, for `mailfold inbound`: messages are appended to the log, then moved to `cur`.

A crash between the two repeats a message with the same id, which is harmless.
"""

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.errors import InvalidSettings
from pipeline.gateway.smtp.claims import has_own_tag
from pipeline.gateway.smtp.envelope import MESSAGE_KEPT_BYTES, mail_record
from pipeline.runtime.ports import Clock, Log, LogEntry
from pipeline.webhooks.base import TokenReaders
from topics.registry import PROVIDER_WEBHOOKS

BATCH_MAX_MESSAGES: Final = 20
SEEN_SUFFIX: Final = ":2,S"
"""The suffix that marks a message as seen (https://cr.yp.to/proto/maildir.html)."""


class MaildirSweep(NamedTuple):
    """The number of messages in `new`, by what one sweep did with them."""

    taken: int
    """Messages that were appended and moved to `cur`."""
    unconfirmed: int
    """Messages that stay in `new` for the next sweep, because the log did not confirm them."""
    foreign: int = 0
    """Messages that were moved to `cur` and not appended, because they contain no tag of ours."""


class Maildir:
    """A maildir folder, with `new` and `cur`.

    Without ``token_readers`` only the form of a message's tags is checked here; the worker verifies them later.
    """

    def __init__(self, folder: Path, log: Log, clock: Clock, token_readers: TokenReaders | None = None) -> None:
        self._new, self._cur = folder / "new", folder / "cur"
        self._log = log
        self._clock = clock
        self._token_readers = token_readers
        if not self._new.is_dir():
            raise InvalidSettings(f"{folder}: not a maildir, it has no folder `new`")

    async def sweep(self) -> MaildirSweep:
        """Append the new messages that contain a tag of ours; move them, and those without one, to `cur`."""
        self._cur.mkdir(exist_ok=True)
        names = sorted(entry.name for entry in os.scandir(self._new) if not entry.name.startswith("."))
        taken = unconfirmed = foreign = 0
        for start in range(0, len(names), BATCH_MAX_MESSAGES):
            messages = [
                (name, message)
                for name in names[start : start + BATCH_MAX_MESSAGES]
                if (message := self._read(name)) is not None
            ]
            own = [(name, head, size) for name, (head, size) in messages if has_own_tag(head, self._token_readers)]
            own_names = {name for name, *_ in own}
            foreign += sum(self._move_to_cur(name) for name, _ in messages if name not in own_names)
            records = [mail_record(head, self._clock(), size=size) for _, head, size in own]
            positions = await self._log.append([LogEntry(PROVIDER_WEBHOOKS, None, record) for record in records])
            for (name, *_), position in zip(own, positions, strict=True):
                if position is None:
                    unconfirmed += 1
                else:
                    taken += self._move_to_cur(name)
        return MaildirSweep(taken, unconfirmed, foreign)

    def _read(self, name: str) -> tuple[bytes, int] | None:
        """Return a message's first bytes and its whole size; None if it is gone or not a regular file."""
        try:
            # Opening a named pipe must not block, and a symbolic link could point to any file.
            handle = os.open(self._new / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(handle)
            return (os.read(handle, MESSAGE_KEPT_BYTES + 1), status.st_size) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(handle)

    def _move_to_cur(self, name: str) -> int:
        """Move a message from `new` to `cur`, marked as seen; return the number of messages moved, 1 or 0."""
        try:
            (self._new / name).rename(self._cur / (name.partition(":2,")[0] + SEEN_SUFFIX))
        except FileNotFoundError:
            return 0  # a concurrent sweep has moved it; its record has the same id
        return 1
