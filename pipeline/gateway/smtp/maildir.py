"""A maildir in; its new messages on the log, then in `cur`, out. A crash in between repeats a message harmlessly."""

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
"""What a mail program calls a message that was read (https://cr.yp.to/proto/maildir.html)."""


class MaildirSweep(NamedTuple):
    """What became of the messages in `new`."""

    taken: int
    unconfirmed: int
    """Stay in `new` for the next sweep: the log did not confirm them."""
    foreign: int = 0
    """Moved to `cur` and not appended: they bear no tag of ours."""


class Maildir:
    """One folder with `new` and `cur`; without ``proofs`` a tag's shape is enough, and the worker verifies it."""

    def __init__(self, folder: Path, log: Log, clock: Clock, proofs: TokenReaders | None = None) -> None:
        self._new, self._cur = folder / "new", folder / "cur"
        self._log = log
        self._clock = clock
        self._proofs = proofs
        if not self._new.is_dir():
            raise InvalidSettings(f"{folder}: not a maildir, it has no folder `new`")

    async def sweep(self) -> MaildirSweep:
        """Append what is new and bears a tag of ours; put it, and what bears none, into `cur`."""
        self._cur.mkdir(exist_ok=True)
        names = sorted(entry.name for entry in os.scandir(self._new) if not entry.name.startswith("."))
        taken = left = foreign = 0
        for start in range(0, len(names), BATCH_MAX_MESSAGES):
            read = [
                (name, read)
                for name in names[start : start + BATCH_MAX_MESSAGES]
                if (read := self._read(name)) is not None
            ]
            found = [(name, head, size) for name, (head, size) in read if has_own_tag(head, self._proofs)]
            foreign += sum(self._done(name) for name in {name for name, _ in read} - {name for name, *_ in found})
            records = [mail_record(head, self._clock(), size=size) for _, head, size in found]
            places = await self._log.append([LogEntry(PROVIDER_WEBHOOKS, None, mail) for mail in records])
            for (name, *_), place in zip(found, places, strict=True):
                taken, left = (taken, left + 1) if place is None else (taken + self._done(name), left)
        return MaildirSweep(taken, left, foreign)

    def _read(self, name: str) -> tuple[bytes, int] | None:
        """A message's head and its whole size; None for what is gone, or is no file."""
        try:
            # O_NONBLOCK: a pipe put there would hold us for ever. A link could point anywhere.
            handle = os.open(self._new / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            found = os.fstat(handle)
            return (os.read(handle, MESSAGE_KEPT_BYTES + 1), found.st_size) if stat.S_ISREG(found.st_mode) else None
        finally:
            os.close(handle)

    def _done(self, name: str) -> int:
        try:
            (self._new / name).rename(self._cur / (name.partition(":2,")[0] + SEEN_SUFFIX))
        except FileNotFoundError:
            return 0  # another sweep was faster; the record is the same
        return 1
