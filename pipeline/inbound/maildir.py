"""A maildir in; its new messages on the log, then in `cur`, out. A crash in between repeats a message harmlessly."""

import os
import stat
from pathlib import Path
from typing import Final

from pipeline.errors import BadSettings
from pipeline.inbound.envelope import KEPT, record
from pipeline.ports import Clock, Entry, Log
from topics.registry import PROVIDER_WEBHOOKS

AT_ONCE: Final = 20
SEEN: Final = ":2,S"
"""What a mail program calls a message that was read (https://cr.yp.to/proto/maildir.html)."""


class Maildir:
    """One folder with `new` and `cur`."""

    def __init__(self, folder: Path, log: Log, clock: Clock) -> None:
        self._new, self._cur = folder / "new", folder / "cur"
        self._log = log
        self._clock = clock
        if not self._new.is_dir():
            raise BadSettings(f"{folder}: not a maildir, it has no folder `new`")

    async def sweep(self) -> tuple[int, int]:
        """How many were taken, and how many are left for another time because the log did not confirm them."""
        self._cur.mkdir(exist_ok=True)
        names = sorted(entry.name for entry in os.scandir(self._new) if not entry.name.startswith("."))
        taken = left = 0
        for start in range(0, len(names), AT_ONCE):
            found = [(name, read) for name in names[start : start + AT_ONCE] if (read := self._read(name)) is not None]
            records = [record(head, self._clock(), size=size) for _, (head, size) in found]
            places = await self._log.append([Entry(PROVIDER_WEBHOOKS, None, mail) for mail in records])
            for (name, _), place in zip(found, places, strict=True):
                taken, left = (taken, left + 1) if place is None else (taken + self._done(name), left)
        return taken, left

    def _read(self, name: str) -> tuple[bytes, int] | None:
        """A message's head and its whole size; None for what is gone, or is no file."""
        try:
            # O_NONBLOCK: a pipe put there would hold us for ever. A link could point anywhere.
            handle = os.open(self._new / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            found = os.fstat(handle)
            return (os.read(handle, KEPT + 1), found.st_size) if stat.S_ISREG(found.st_mode) else None
        finally:
            os.close(handle)

    def _done(self, name: str) -> int:
        try:
            (self._new / name).rename(self._cur / (name.partition(":2,")[0] + SEEN))
        except FileNotFoundError:
            return 0  # another sweep was faster; the record is the same
        return 1
