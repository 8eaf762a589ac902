"""Addresses to list or to lift in, decisions on the log out, and what became of each.

A decision is made when all in-sync replicas have it; then the projector is waited for a moment, so
that who sends next finds it. What stands already isn't written again, so a repeat is harmless and
keeps the time since when.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.errors import NotFound, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import append_all
from pipeline.runtime.ports import Log, LogEntry
from pipeline.suppressions.import_file import ADDRESS_HASH_PATTERN, ImportedAddress, RejectedLine, name_problem
from pipeline.suppressions.queries import AddressHashes, SuppressionQueries
from projections import suppressions
from projections.suppressing import AddressKey
from projections.text import storable_text
from topics.registry import SUPPRESSIONS
from topics.suppressions import AddressLifted, AddressListed, SuppressionDecision, SuppressionReason

PROJECTION_TIMEOUT_S: Final = 3.0
"""So long the projector is waited for; longer for a long import, of which it has more to read."""
BATCH_MAX_LINES: Final = 2000
"""Lines in hand; hashing them is done beside the loop, because pixels wait for nobody."""
NOTE_MAX_CHARS: Final = 200
BRAND_MAX_CHARS: Final = 200
MAX_REPORTED_LINES: Final = 1000
"""Lines that can't be used, told one by one; the rest are counted."""
_ADDRESS_PATTERN: Final = re.compile(r"\S@\S")


@dataclass(frozen=True)
class SuppressionCommand:
    """What is decided of each address, and by whom."""

    tenant: str
    brand: str
    by: str
    reason: SuppressionReason | None = None
    """For those that don't say one themselves; None: manual."""
    note: str = ""


class SuppressionReport(msgspec.Struct, kw_only=True):
    """What became of many."""

    listed: int = 0
    unchanged: int = 0
    """They are listed already, for the same reason; or came twice."""
    refused: int = 0
    lines: list[RejectedLine] = []
    """Those refused, the first thousand."""
    projected: bool = True
    """False: all is durable, and not all in force yet."""


class SuppressionCommandHandler:
    """Lists and lifts."""

    def __init__(self, rt: Runtime, log: Log) -> None:
        self._rt, self._log = rt, log
        self._asking = SuppressionQueries(rt)

    async def suppress(self, wish: SuppressionCommand, address_hash: bytes) -> tuple[bool, bool]:
        """Whether it was news, and whether it is in force. Raises LogUnavailable."""
        check_command(wish)
        report = SuppressionReport()
        last = await self._list(wish, [ImportedAddress(1, address_hash.hex(), wish.reason)], report)
        return bool(report.listed), await self._in_force(last, PROJECTION_TIMEOUT_S)

    async def suppress_many(
        self, wish: SuppressionCommand, lines: Iterable[ImportedAddress | RejectedLine]
    ) -> SuppressionReport:
        """List what can be listed. Raises LogUnavailable; what was decided until then stands."""
        check_command(wish, many=True)
        report, last = SuppressionReport(), -1
        async for found in _batches(_with_brand(lines, wish.brand), report):
            last = max(last, await self._list(wish, found, report))
        # The projector has been at it all the while.
        report.projected = await self._in_force(last, PROJECTION_TIMEOUT_S + report.listed / 10_000)
        return report

    async def lift(self, wish: SuppressionCommand, named: AddressHashes) -> bool:
        """Write to it again; return whether that is in force. Raise NotFound where nothing is known of it."""
        check_command(wish)
        known = await self._asking.of_address(wish.tenant, named)
        brand = storable_text(wish.brand)
        about = [one for one in known if wish.brand == "*" or one.key[1] in (brand, "*")]
        if not any(one.evidence or one.decisions for one in about):
            raise NotFound("nothing is known of this address for this brand")
        hashes = [named.hash]
        if named.old is not None and not named.old.shared:
            # Processes of an earlier version that still run ask for the old hash alone.
            hashes.append(named.old.digest)
        now = self._rt.clock()
        lifts = [
            AddressLifted(tenant=wish.tenant, brand=brand, address_hash=one.hex(), by=wish.by, at=now) for one in hashes
        ]
        return await self._in_force(await self._append(lifts), PROJECTION_TIMEOUT_S)

    async def _list(self, wish: SuppressionCommand, found: Sequence[ImportedAddress], report: SuppressionReport) -> int:
        """Those that aren't listed so already, the last of each address; the last one's offset."""
        wanted = await asyncio.to_thread(self._wanted, wish, found)
        standing = await self._asking.find_listed(list(wanted))
        news: list[SuppressionDecision] = [
            AddressListed(
                tenant=key[0],
                brand=key[1],
                address_hash=key[2].hex(),
                by=wish.by,
                at=self._rt.clock(),
                reason=reason,
                note=wish.note,
            )
            for key, reason in wanted.items()
            if standing.get(key) != (reason, wish.note)
        ]
        report.listed += len(news)
        report.unchanged += len(found) - len(news)
        return await self._append(news) if news else -1

    def _wanted(
        self, wish: SuppressionCommand, found: Sequence[ImportedAddress]
    ) -> dict[AddressKey, SuppressionReason]:
        wanted: dict[AddressKey, SuppressionReason] = {}
        for one in found:
            key = (wish.tenant, storable_text(wish.brand or one.brand), address_hash(self._asking, one.name))
            wanted[key] = one.reason or wish.reason or SuppressionReason.MANUAL
        return wanted

    async def _append(self, decisions: Sequence[SuppressionDecision]) -> int:
        places = await append_all(self._log, [LogEntry(SUPPRESSIONS, one.key, one) for one in decisions])
        return max(place.offset for place in places)

    async def _in_force(self, offset: int, patience: float) -> bool:
        """Whether all up to here is projected within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while offset >= 0 and not await self._is_projected(offset):
                    await asyncio.sleep(0.05)
                return True
        return False

    async def _is_projected(self, offset: int) -> bool:
        async with self._rt.pool.connection() as connection:
            return await suppressions.read_next_offset(connection) > offset


def address_hash(asking: SuppressionQueries, name: str) -> bytes:
    """Return today's hash of an address that is named by itself or by its hash. Raise Refused."""
    return address_hashes(asking, name).hash


def address_hashes(asking: SuppressionQueries, name: str) -> AddressHashes:
    """Return the hashes of an address that is named by itself or by its hash. Raise Refused."""
    given = name.strip()
    if ADDRESS_HASH_PATTERN.fullmatch(given):
        return AddressHashes(bytes.fromhex(given))
    if problem := name_problem(given):
        raise Refused(f"{problem}, and not a hash of one either", "address")
    return asking.hashes_of(given)


def check_command(wish: SuppressionCommand, *, many: bool = False) -> None:
    """Raise Refused for what can't be decided so."""
    if not wish.brand and not many:
        raise Refused("which brand? `*` is all of them", "brand")
    if len(wish.brand) > BRAND_MAX_CHARS:
        raise Refused(f"over {BRAND_MAX_CHARS} characters", "brand")
    if len(wish.note) > NOTE_MAX_CHARS:
        raise Refused(f"over {NOTE_MAX_CHARS} characters", "note")
    if _ADDRESS_PATTERN.search(wish.note):
        raise Refused("an address; the list holds hashes of addresses only", "note")


def _with_brand(
    lines: Iterable[ImportedAddress | RejectedLine], brand: str
) -> Iterator[ImportedAddress | RejectedLine]:
    """Each line's own brand, where none is decided for all."""
    for line in lines:
        if isinstance(line, RejectedLine) or (brand and not line.brand):
            yield line
        elif brand:
            yield msgspec.structs.replace(line, brand="")
        elif not line.brand or len(line.brand) > BRAND_MAX_CHARS:
            yield RejectedLine(
                line.line, "no brand, and none is given for all" if not line.brand else "no brand's name"
            )
        else:
            yield line


async def _batches(
    lines: Iterable[ImportedAddress | RejectedLine], report: SuppressionReport
) -> AsyncIterator[list[ImportedAddress]]:
    """Lines that can be used, some thousand at once; the others go into the report."""
    source: Iterator[ImportedAddress | RejectedLine] = iter(lines)
    while True:
        found: list[ImportedAddress] = []
        ended = await asyncio.to_thread(_take, source, found, report)
        if found:
            yield found
        if ended:
            return


def _take(
    source: Iterator[ImportedAddress | RejectedLine], found: list[ImportedAddress], report: SuppressionReport
) -> bool:
    for line in source:
        if isinstance(line, ImportedAddress):
            found.append(line)
            if len(found) == BATCH_MAX_LINES:
                return False
            continue
        report.refused += 1
        if len(report.lines) < MAX_REPORTED_LINES:
            report.lines.append(line)
    return True
