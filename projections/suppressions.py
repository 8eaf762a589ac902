"""`suppressions`' records in, rows out; an address in, why nobody writes to it out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections.sql import SqlQueries
from projections.steps import storable_bigint
from projections.suppressing import (
    AddressDecision,
    AddressKey,
    Evidence,
    OldAddressHash,
    Suppression,
    SuppressionRule,
    latest_decision,
    suppression_for,
)
from projections.text import storable_text
from topics.record import EmailId, Millis
from topics.registry import SUPPRESSIONS
from topics.suppressions import AddressListed, SuppressionDecision, SuppressionReason

SQL: Final = SqlQueries(Path(__file__).with_name("suppressions.sql"))
PARTITION: Final = 0
"""The topic has one."""
LOOKUP_MAX_ADDRESSES: Final = 500
"""Addresses looked at in one round."""
PAGE_MAX_ROUNDS: Final = 20
"""For one page: where next to all is lifted or forgiven, a page ends early and the next goes on."""

Connection = psycopg.AsyncConnection[Any]
OldHashes = Mapping[AddressKey, OldAddressHash]
_NO_OLD_HASHES: Final[OldHashes] = {}


class AddressAssessment(msgspec.Struct, frozen=True):
    """All that bears on one brand's mail to one address."""

    key: AddressKey
    decisions: Sequence[AddressDecision]
    evidence: Sequence[Evidence]
    suppression: Suppression | None


class SuppressionPosition(msgspec.Struct, frozen=True):
    """The last entry seen; the listing goes on behind it."""

    address_hash: bytes = b""
    brand: str = ""


class SuppressionListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a tenant's suppressions are wanted. A brand wants what holds for it, all brands' included."""

    tenant: str
    brand: str | None = None
    reason: SuppressionReason | None = None
    limit: int = 100
    start_after: SuppressionPosition = SuppressionPosition()


class SuppressionPage(msgspec.Struct, frozen=True):
    """What is shown, and where it goes on; None at the end."""

    entries: Sequence[tuple[AddressKey, Suppression]]
    next_position: SuppressionPosition | None


async def find_suppressed(
    connection: Connection,
    keys: Sequence[AddressKey],
    rule: SuppressionRule,
    now: Millis,
    old: OldHashes = _NO_OLD_HASHES,
) -> dict[AddressKey, Suppression]:
    """Return those of these keys that get nothing, and why; ``old``: hashes that count as well."""
    return {
        known.key: known.suppression
        for known in await assess_addresses(connection, keys, rule, now, old)
        if known.suppression is not None
    }


async def assess_addresses(
    connection: Connection,
    keys: Sequence[AddressKey],
    rule: SuppressionRule,
    now: Millis,
    old: OldHashes = _NO_OLD_HASHES,
) -> list[AddressAssessment]:
    """Return all that is known of these keys; ``old``: hashes that count as well."""
    if not keys:
        return []
    values = _hash_columns(keys, old) | {"soft_since": rule.since(now)}
    decisions, evidence = _sorted_out(await (await connection.execute(SQL["told"], values)).fetchall())
    since = rule.since(now)
    found = [
        _known(key, decisions[number], evidence.get(number, []), rule, since)
        for number, key in enumerate(keys, start=1)
    ]
    return await _forgive(connection, found, rule, since, old)


def _known(
    key: AddressKey,
    decisions: Sequence[AddressDecision],
    evidence: Sequence[Evidence],
    rule: SuppressionRule,
    soft_since: Millis,
) -> AddressAssessment:
    why = suppression_for(key[1], latest_decision(decisions), evidence, rule, soft_since=soft_since)
    return AddressAssessment(key, decisions, evidence, why)


async def _forgive(
    connection: Connection, found: list[AddressAssessment], rule: SuppressionRule, since: Millis, old: OldHashes
) -> list[AddressAssessment]:
    """Soft bounces count since the last email that arrived: asked only where they would be enough."""
    doubted = [nth for nth, known in enumerate(found) if known.suppression is not None and known.suppression.is_soft]
    if doubted:
        values = _hash_columns([found[nth].key for nth in doubted], old) | {"soft_since": since}
        for number, arrived in await (await connection.execute(SQL["arrived"], values)).fetchall():
            known = found[doubted[number - 1]]
            later = max(since, arrived)
            found[doubted[number - 1]] = _known(known.key, known.decisions, known.evidence, rule, later)
    return found


async def find_page(
    connection: Connection, asked: SuppressionListQuery, rule: SuppressionRule, now: Millis
) -> SuppressionPage:
    """One page of a tenant's suppressions."""
    entries: list[tuple[AddressKey, Suppression]] = []
    behind = asked.start_after
    for _ in range(PAGE_MAX_ROUNDS):
        keys = await _keys(connection, asked, behind)
        for known in await assess_addresses(connection, keys, rule, now):
            behind = SuppressionPosition(known.key[2], known.key[1])
            why = known.suppression
            if why is not None and asked.reason in (None, why.reason) and _shown(why, known.key[1], asked):
                entries.append((known.key, why))
            if len(entries) == asked.limit:
                return SuppressionPage(entries, behind)
        if len(keys) < LOOKUP_MAX_ADDRESSES:
            return SuppressionPage(entries, None)
    return SuppressionPage(entries, behind)


def _shown(why: Suppression, brand: str, asked: SuppressionListQuery) -> bool:
    """What was decided for all brands is shown once, as that; to who asks for one brand it is shown as what holds."""
    return asked.brand is not None or why.brand == brand


async def assess_address(
    connection: Connection,
    tenant: str,
    address_hash: bytes,
    rule: SuppressionRule,
    now: Millis,
    *,
    old: OldAddressHash | None = None,
) -> list[AddressAssessment]:
    """Return everything that is known of one address, brand by brand."""
    values = {"tenant": tenant, "hashes": [address_hash, *([old.digest] if old else [])]}
    rows = await (await connection.execute(SQL["keys_of"], values)).fetchall()
    keys = [(tenant, brand, address_hash) for (brand,) in rows]
    return await assess_addresses(connection, keys, rule, now, dict.fromkeys(keys, old) if old else _NO_OLD_HASHES)


async def find_listed(
    connection: Connection, keys: Sequence[AddressKey]
) -> dict[AddressKey, tuple[SuppressionReason, str]]:
    """Those of these that are listed by a decision for this very brand: why, and the note."""
    rows = await (await connection.execute(SQL["listed"], _columns(keys))).fetchall()
    return {keys[number - 1]: (SuppressionReason(reason), note) for number, reason, note in rows}


async def find_addresses(connection: Connection, tenant: str, hashes: Sequence[bytes]) -> dict[bytes, str]:
    """The addresses behind these hashes, those that the history still knows."""
    values = {"tenant": tenant, "hashes": list(hashes)}
    return dict(await (await connection.execute(SQL["addresses"], values)).fetchall())


async def next_offset(connection: Connection, beginning: int) -> int:
    """Where to read on; the first time ever that is the log's beginning."""
    await connection.execute(SQL["first_offset"], (SUPPRESSIONS.name, PARTITION, beginning))
    return await read_next_offset(connection)


async def read_next_offset(connection: Connection) -> int:
    """The first offset that isn't projected yet."""
    row = await (await connection.execute(SQL["next_offset"], (SUPPRESSIONS.name, PARTITION))).fetchone()
    return 0 if row is None else int(row[0])


async def project(
    connection: Connection, expected: int, upto: int, decisions: Sequence[tuple[int, SuppressionDecision]]
) -> bool:
    """Write what lies from ``expected`` to before ``upto``, whole; False, and nothing, where somebody else did."""
    async with connection.transaction():
        values = {"topic": SUPPRESSIONS.name, "partition": PARTITION, "expected": expected, "next": upto}
        if (await connection.execute(SQL["advance"], values)).rowcount != 1:
            return False
        # A statement may touch a row once: the last of each key is what the others came to.
        last = {decision.key: (offset, decision) for offset, decision in decisions}
        if last:
            await connection.execute(SQL["decide"], _rows(list(last.values())))
        return True


def _rows(decisions: Sequence[tuple[int, SuppressionDecision]]) -> dict[str, Any]:
    return {
        "tenants": [decision.tenant for _, decision in decisions],
        "brands": [storable_text(decision.brand) for _, decision in decisions],
        "hashes": [bytes.fromhex(decision.address_hash) for _, decision in decisions],
        "reasons": [
            decision.reason.value if isinstance(decision, AddressListed) else None for _, decision in decisions
        ],
        "notes": [
            storable_text(decision.note) if isinstance(decision, AddressListed) else "" for _, decision in decisions
        ],
        "by": [storable_text(decision.by) for _, decision in decisions],
        "at": [storable_bigint(decision.at) for _, decision in decisions],
        "nth": [offset for offset, _ in decisions],
    }


async def _keys(connection: Connection, asked: SuppressionListQuery, behind: SuppressionPosition) -> list[AddressKey]:
    values = {
        "tenant": asked.tenant,
        "brand": asked.brand,
        "address_hash": behind.address_hash,
        "after_brand": behind.brand,
        "limit": LOOKUP_MAX_ADDRESSES,
    }
    rows = await (await connection.execute(SQL["keys" if asked.brand is None else "keys_for"], values)).fetchall()
    return [(asked.tenant, brand, address_hash) for address_hash, brand in rows]


def _hash_columns(keys: Sequence[AddressKey], old: OldHashes) -> dict[str, Any]:
    """Return one row for each hash of each key; rows of one key have one number, counted from 1."""
    rows = [(*key, number, False) for number, key in enumerate(keys, start=1)]
    for number, key in enumerate(keys, start=1):
        if (other := old.get(key)) is not None:
            rows.append((key[0], key[1], other.digest, number, other.shared))
    columns = zip(*rows, strict=True)
    return dict(zip(("tenants", "brands", "hashes", "numbers", "shared"), map(list, columns), strict=True))


def _columns(keys: Sequence[AddressKey]) -> dict[str, Any]:
    tenants, brands, hashes = zip(*keys, strict=True) if keys else ((), (), ())
    return {"tenants": list(tenants), "brands": list(brands), "hashes": list(hashes)}


def _sorted_out(
    rows: Sequence[Sequence[Any]],
) -> tuple[Mapping[int, list[AddressDecision]], Mapping[int, list[Evidence]]]:
    decisions: dict[int, list[AddressDecision]] = defaultdict(list)
    evidence: dict[int, list[Evidence]] = defaultdict(list)
    for number, brand, nth, at, by, reason, note, email_id, event_id in rows:
        if email_id is None:
            known = None if reason is None else SuppressionReason(reason)
            decisions[number].append(AddressDecision(nth=nth, brand=brand, at=at, by=by, reason=known, note=note))
        else:
            evidence[number].append(Evidence(at, SuppressionReason(reason), EmailId(email_id), event_id))
    return decisions, {number: _each_once(found) for number, found in evidence.items()}


def _each_once(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Return what each email told of each kind once: it may stand under the old hash and under today's."""
    return list({(one.email_id, one.reason): one for one in sorted(evidence, key=lambda one: one.at)}.values())
