"""Commands that list addresses or lift their suppression; the HTTP routes and `mailfold suppressions` give them.

A decision is durable when all in-sync replicas have its record. A command then waits a moment for the projector, so
that the caller's next request finds it in force. A decision that is in force already is not written again: a repeat
is harmless and keeps the time of the first.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.admin.actions import OperatorChange
from pipeline.errors import NotFound, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import Log, LogEntry
from pipeline.suppressions.import_file import ADDRESS_HASH_PATTERN, ImportedAddress, RejectedLine, name_problem
from pipeline.suppressions.queries import AddressHashes, SuppressionQueries
from projections import suppressions
from projections.suppression_rules import AddressKey
from projections.suppressions import AddressAssessment
from projections.text import storable_text
from topics.registry import SUPPRESSIONS
from topics.suppressions import AddressLifted, AddressListed, SuppressionDecision, SuppressionReason

PROJECTION_TIMEOUT_S: Final = 3.0
"""Seconds to wait for the projector to apply a decision; imports wait longer, in proportion to their size."""
BATCH_MAX_LINES: Final = 2000
"""Lines handled at a time; a thread hashes them, so that the event loop can answer other requests meanwhile."""
NOTE_MAX_CHARS: Final = 200
BRAND_MAX_CHARS: Final = 200
MAX_REPORTED_LINES: Final = 1000
"""Rejected lines that a report lists; further ones are only counted."""
_ADDRESS_PATTERN: Final = re.compile(r"\S@\S")
"""Text that could be an address, which a note must not contain."""


@dataclass(frozen=True)
class SuppressionCommand:
    """A decision about one or many addresses, and who makes it."""

    tenant: str
    brand: str
    by: str
    """The user or API key that gives the command, as it is shown with the decision."""
    reason: SuppressionReason | None = None
    """The reason for lines without one of their own; None means manual."""
    note: str = ""


class SuppressionReport(msgspec.Struct, kw_only=True):
    """The result of a command about many addresses."""

    listed: int = 0
    unchanged: int = 0
    """Lines whose address was listed already for the same reason, or that repeat another line."""
    refused: int = 0
    lines: list[RejectedLine] = []
    """The first ``MAX_REPORTED_LINES`` refused lines."""
    projected: bool = True
    """False: the decisions are durable, and not all of them are in force yet."""


class SuppressionCommandHandler:
    """Executes commands: it appends decisions to the log and waits until the projector has applied them."""

    def __init__(self, rt: Runtime, log: Log) -> None:
        self._rt, self._log = rt, log
        self._queries = SuppressionQueries(rt)

    async def suppress(self, command: SuppressionCommand, address_hash: bytes) -> tuple[bool, bool]:
        """List one address; return whether it was not listed so before, and whether the decision is in force.

        Raise Refused if the command is invalid, LogUnavailable if the log did not confirm in time.
        """
        check_command(command)
        report = SuppressionReport()
        last_offset = await self._list(command, [ImportedAddress(1, address_hash.hex(), command.reason)], report)
        return bool(report.listed), await self._wait_until_projected(last_offset, PROJECTION_TIMEOUT_S)

    async def suppress_many(
        self, command: SuppressionCommand, lines: Iterable[ImportedAddress | RejectedLine]
    ) -> SuppressionReport:
        """List the addresses of all valid lines.

        Raise Refused if the command is invalid, LogUnavailable if the log did not confirm in time; what was listed
        until then stays listed.
        """
        check_command(command, many=True)
        report, last_offset = SuppressionReport(), -1
        async for addresses in _batches(_with_brand(lines, command.brand), report):
            last_offset = max(last_offset, await self._list(command, addresses, report))
        # The projector has applied earlier batches meanwhile, so a short time per decision is enough.
        report.projected = await self._wait_until_projected(last_offset, PROJECTION_TIMEOUT_S + report.listed / 10_000)
        return report

    async def lift(self, command: SuppressionCommand, hashes: AddressHashes) -> bool:
        """Lift an address's suppression; return whether that is in force.

        Raise Refused if the command is invalid, NotFound if neither evidence nor a decision exists for the address,
        LogUnavailable if the log did not confirm in time.
        """
        await self._require_known(command, hashes)
        brand = storable_text(command.brand)
        digests = [hashes.hash]
        if hashes.old is not None and not hashes.old.shared:
            # Processes of an earlier version that still run look up the old hash only.
            digests.append(hashes.old.digest)
        now = self._rt.clock()
        decisions = [
            AddressLifted(tenant=command.tenant, brand=brand, address_hash=digest.hex(), by=command.by, at=now)
            for digest in digests
        ]
        return await self._wait_until_projected(await self._append(decisions), PROJECTION_TIMEOUT_S)

    async def lift_change(self, command: SuppressionCommand, hashes: AddressHashes, reason: str = "") -> OperatorChange:
        """Return what the record of actions says about a lifted suppression. Raise Refused and NotFound, as `lift`."""
        known = await self._require_known(command, hashes)
        before = {each.key[1]: None if each.suppression is None else each.suppression.reason.value for each in known}
        target = hashes.hash.hex()
        return OperatorChange("suppressions.remove", target, command.tenant, reason=reason, before=before)

    async def _require_known(self, command: SuppressionCommand, hashes: AddressHashes) -> list[AddressAssessment]:
        """Return what is known of an address for the command's brand. Raise NotFound if nothing is."""
        check_command(command)
        assessments = await self._queries.of_address(command.tenant, hashes)
        brand = storable_text(command.brand)
        affected = [each for each in assessments if command.brand == "*" or each.key[1] in (brand, "*")]
        if not any(each.evidence or each.decisions for each in affected):
            raise NotFound("nothing is known of this address for this brand")
        return affected

    async def _list(
        self, command: SuppressionCommand, addresses: Sequence[ImportedAddress], report: SuppressionReport
    ) -> int:
        """Append a decision for each address that is not listed so already, and count all in the report.

        The last line of an address counts. Return the offset of the last record appended, -1 if none was.
        """
        reasons = await asyncio.to_thread(self._reasons_by_key, command, addresses)
        listed = await self._queries.find_listed(list(reasons))
        decisions: list[SuppressionDecision] = [
            AddressListed(
                tenant=key[0],
                brand=key[1],
                address_hash=key[2].hex(),
                by=command.by,
                at=self._rt.clock(),
                reason=reason,
                note=command.note,
            )
            for key, reason in reasons.items()
            if listed.get(key) != (reason, command.note)
        ]
        report.listed += len(decisions)
        report.unchanged += len(addresses) - len(decisions)
        return await self._append(decisions) if decisions else -1

    def _reasons_by_key(
        self, command: SuppressionCommand, addresses: Sequence[ImportedAddress]
    ) -> dict[AddressKey, SuppressionReason]:
        reasons: dict[AddressKey, SuppressionReason] = {}
        for address in addresses:
            brand = storable_text(command.brand or address.brand)
            key = (command.tenant, brand, address_hash(self._queries, address.name))
            reasons[key] = address.reason or command.reason or SuppressionReason.MANUAL
        return reasons

    async def _append(self, decisions: Sequence[SuppressionDecision]) -> int:
        """Append decisions and return the last one's offset. Raise LogUnavailable."""
        positions = await append_all(self._log, [LogEntry(SUPPRESSIONS, each.key, each) for each in decisions])
        return max(position.offset for position in positions)

    async def _wait_until_projected(self, offset: int, timeout_s: float) -> bool:
        """Wait until the projector has applied all records up to ``offset``; return False after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while offset >= 0 and not await self._is_projected(offset):
                    await asyncio.sleep(0.05)
                return True
        return False

    async def _is_projected(self, offset: int) -> bool:
        async with self._rt.pool.connection() as connection:
            return await suppressions.read_next_offset(connection) > offset


def suppress_change(command: SuppressionCommand, address_hash: bytes) -> OperatorChange:
    """Return what the record of actions says about one suppressed address; its reason is the command's note."""
    return OperatorChange(
        "suppressions.add", address_hash.hex(), command.tenant, reason=command.note, after=_shown(command)
    )


def import_change(command: SuppressionCommand) -> OperatorChange:
    """Return what the record of actions says about many suppressed addresses, each of which is a decision."""
    target = command.brand or "the brands that the lines name"
    return OperatorChange("suppressions.import", target, command.tenant, reason=command.note, after=_shown(command))


def _shown(command: SuppressionCommand) -> dict[str, str | None]:
    return {"brand": command.brand, "reason": None if command.reason is None else command.reason.value}


def address_hash(queries: SuppressionQueries, name: str) -> bytes:
    """Return the current hash of an address that is given as itself or as its hash. Raise Refused if it is neither."""
    return address_hashes(queries, name).hash


def address_hashes(queries: SuppressionQueries, name: str) -> AddressHashes:
    """Return the hashes of an address that is given as itself or as its hash. Raise Refused if it is neither."""
    stripped = name.strip()
    if ADDRESS_HASH_PATTERN.fullmatch(stripped):
        return AddressHashes(bytes.fromhex(stripped))
    if problem := name_problem(stripped):
        raise Refused(f"{problem}, and not a hash of one either", "address")
    return queries.hashes_of(stripped)


def check_command(command: SuppressionCommand, *, many: bool = False) -> None:
    """Raise Refused for an invalid brand or note; with ``many`` each line may name its own brand."""
    if not command.brand and not many:
        raise Refused("a brand is required; `*` means all brands", "brand")
    if len(command.brand) > BRAND_MAX_CHARS:
        raise Refused(f"over {BRAND_MAX_CHARS} characters", "brand")
    if len(command.note) > NOTE_MAX_CHARS:
        raise Refused(f"over {NOTE_MAX_CHARS} characters", "note")
    if _ADDRESS_PATTERN.search(command.note):
        raise Refused("contains an address; only hashes of addresses are stored", "note")


def _with_brand(
    lines: Iterable[ImportedAddress | RejectedLine], brand: str
) -> Iterator[ImportedAddress | RejectedLine]:
    """Yield the lines; reject those without a valid brand, unless ``brand`` is given for all of them."""
    for line in lines:
        if isinstance(line, RejectedLine) or (brand and not line.brand):
            yield line
        elif brand:
            yield msgspec.structs.replace(line, brand="")
        elif not line.brand or len(line.brand) > BRAND_MAX_CHARS:
            error = f"brand over {BRAND_MAX_CHARS} characters" if line.brand else "no brand, and none is given for all"
            yield RejectedLine(line.line, error)
        else:
            yield line


async def _batches(
    lines: Iterable[ImportedAddress | RejectedLine], report: SuppressionReport
) -> AsyncIterator[list[ImportedAddress]]:
    """Yield the addresses in batches of ``BATCH_MAX_LINES``; add the rejected lines to the report."""
    source: Iterator[ImportedAddress | RejectedLine] = iter(lines)
    while True:
        addresses: list[ImportedAddress] = []
        is_end = await asyncio.to_thread(_read_batch, source, addresses, report)
        if addresses:
            yield addresses
        if is_end:
            return


def _read_batch(
    source: Iterator[ImportedAddress | RejectedLine], addresses: list[ImportedAddress], report: SuppressionReport
) -> bool:
    """Read lines into ``addresses`` and the report until a batch is full; return whether the source has ended."""
    for line in source:
        if isinstance(line, ImportedAddress):
            addresses.append(line)
            if len(addresses) == BATCH_MAX_LINES:
                return False
            continue
        report.refused += 1
        if len(report.lines) < MAX_REPORTED_LINES:
            report.lines.append(line)
    return True
